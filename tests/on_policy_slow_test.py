"""Tests on-policy training in one process."""

import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from kd.config import base
from kd.configs import quickstart
from kd.core import errors
from kd.core import types
from kd.modes import check as check_mode
from kd.modes import train as train_mode
from kd.run import load_params
from kd.run import resolve
from kd.run import source as source_lib
from kd.teachers.served import served_cases
from kd.train import training_rows
from tests import alternating
from tests import command

_STEPS = 6


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('on_policy')
  with command.compiled_once(), alternating.variants():
    yield folder


def _config(folder, **changes):
  """Returns a config with three terms, to compare their targets."""
  c = quickstart.get_config()
  c.update(steps=_STEPS)
  c.teacher.source = 'on_policy'
  c.rollout = base.rollout(
    fraction=0.5, max_new_tokens=12, batch_size=4, **changes
  )
  c.losses = dict(
    all=base.term('jensen_shannon'),
    sampled=base.term('reverse_kl', part='sampled'),
    labels=base.term('cross_entropy', weight=1.0),
  )
  c.data.update(
    mixture='arithmetic_few',
    examples=24,
    length=64,
    batch_size=4,
    pack=False,
    folder=str(folder / 'rows'),
  )
  c.optimizer.lr.warmup_steps = 1
  c.evaluation.baseline = False
  c.evaluation.every, c.evaluation.sets = 0, {}
  c.checkpoint.update(every=1, keep=_STEPS)
  c.log.update(every=1, tensorboard=False)
  return c


def _lines(workdir, phase):
  return [x for x in command.metrics(str(workdir)) if x['phase'] == phase]


@pytest.fixture(scope='module')
def replayed(folder):
  """A run that samples at every second step."""
  config = _config(folder, every=2, buffer=3, importance_cap=1.001)
  config.evaluation.baseline = True
  train_mode.main(config, str(folder / 'replayed'))
  return config, folder / 'replayed'


def test_sampled_answers_are_never_labels(replayed):
  """The metrics show that each term counts its own targets."""
  _, workdir = replayed
  lines = _lines(workdir, 'train')
  assert len(lines) == _STEPS
  for line in lines:
    count = lambda key, line=line: line[f'train/target_weight/{key}']
    assert 0 < count('sampled') < count('all')
    assert count('labels') == count('all') - count('sampled')
  # The baseline, trained with cross-entropy, uses only the data's answers.
  for line in _lines(workdir / 'baseline', 'train'):
    assert line['train/target_weight/ce'] > 0
    assert not any('rollout' in key for key in line)


def test_rollout_age_and_texts_are_logged(replayed):
  _, workdir = replayed
  lines = _lines(workdir, 'train')
  assert all(line['train/rollout/fraction'] == 0.5 for line in lines)
  fresh, again = lines[::2], lines[1::2]
  assert all(line['train/rollout/age'] == 0 for line in fresh)
  # Three rows are kept, two of them new; the third is from two steps earlier.
  assert all(1 <= line['train/rollout/oldest'] <= 3 for line in again)
  assert any(line['train/rollout/oldest'] > 1 for line in again)
  assert not any('train/rollout/new_tokens' in line for line in again)
  # Rows are weighted by the student's current likelihood of sampling them.
  weights, truncated = (
    np.array([x[f'train/rollout/importance_{name}'] for x in lines])
    for name in ('weight', 'truncated')
  )
  np.testing.assert_allclose(weights[::2], 1, atol=1e-4)
  assert (weights <= 1.001).all() and abs(weights[1::2] - 1).max() > 1e-3
  assert not truncated[::2].any() and truncated[1::2].max() > 0
  texts = _lines(workdir, 'text')
  assert len(texts) == _STEPS
  assert texts[0]['rollout/prompt'].startswith('Q: ')
  assert len({line['rollout/answer'] for line in texts}) > 1


def test_runs_stopped_between_samplings_end_with_equal_results(
  replayed, folder
):
  config, straight = replayed
  stopped = folder / 'stopped'
  shutil.copytree(straight, stopped)
  for part in (stopped, stopped / 'baseline'):
    for step in range(4, _STEPS + 1):
      shutil.rmtree(part / 'checkpoints' / str(step))
  # Step 3 trains on rows of step 2, which are only in the checkpoint.
  train_mode.main(config, str(stopped))
  command.assert_ended_alike(str(stopped), str(straight), _STEPS)
  saved = command.saved(str(stopped), _STEPS)
  assert any('rollouts/made' in key for key in saved)


def test_the_settings_are_printed_and_a_changed_one_is_refused(
  replayed, capsys
):
  config, workdir = replayed
  check_mode.main(config, str(workdir))
  said = capsys.readouterr().out
  assert 'rollouts: 0.5 of the rows, every 2 steps' in said
  assert 'top_p 1.0' in said and 'max_new_tokens 12' in said
  other = config.copy_and_resolve_references()
  other.rollout.temperature = 0.7
  with pytest.raises(errors.ConfigError, match='rollout.temperature'):
    train_mode.main(other, str(workdir))


def test_empty_answers_train_on_the_stop_id(folder):
  config = _config(folder)
  config.steps = 1
  config.optimizer.lr.warmup_steps = 0
  config.student.init = f'hf:{_silent(folder)}'
  config.student.variant = ''
  config.rollout.update(fraction=1.0, temperature=0.0)
  config.losses = dict(kl=base.term('reverse_kl', part='sampled'))
  config.log.tensorboard = True
  train_mode.main(config, str(folder / 'silent'))
  (line,) = _lines(folder / 'silent', 'train')
  assert line['train/rollout/new_tokens'] == 0
  assert line['train/rollout/stopped'] == 1
  # The only target of each row is the stop id.
  assert line['train/target_weight/kl'] == line['train/target_weight'] == 4
  assert list((folder / 'silent').glob('events.out.tfevents*'))


def _silent(folder):
  """Returns the quickstart's teacher, changed to end every answer at once."""
  from safetensors import numpy

  there = folder / 'silent_student'
  shutil.copytree('data/fixtures/quickstart_teacher', there)
  path = os.path.join(there, 'model.safetensors')
  tensors = numpy.load_file(path)
  for name, value in tensors.items():
    if name.endswith('norm.weight'):
      # Norms multiply by 1 + weight, so all layers add zero.
      tensors[name] = np.full_like(value, -1.0)
  table = tensors['model.embed_tokens.weight']
  table[:] = 0.1
  table[1] = 1.0
  tensors['model.norm.weight'][:] = 0.0
  numpy.save_file(tensors, path)
  return there


def test_commands_on_the_page_run_and_its_table_is_correct(tmp_path):
  text = pathlib.Path('docs/on_policy.md').read_text()
  block, *_ = re.findall(r'^```\n(.*?)^```', text, re.M | re.S)
  lines = block.splitlines()
  assert len(lines) == 2
  begins = 'first_step=0', 'last_step=4'
  for line, ramp in zip(lines, (begins, ()), strict=True):
    program, arguments = line.split('-m kd ')
    assert program == 'python '
    arguments = re.sub('/tmp/', f'{tmp_path}/', arguments).split()
    small = [
      *command.QUICK[1:],
      '--config.evaluation.baseline=False',
      '--config.rollout.max_new_tokens=16',
    ]
    ramp = [f'--config.rollout.fraction.{x}' for x in ramp]
    code, _, err = command.run([*arguments, *small, *ramp], command.ALTERNATING)
    assert code == 0, err
  shares = [
    [x['train/rollout/fraction'] for x in _lines(tmp_path / name, 'train')]
    for name in ('kd-gkd', 'kd-on-policy')
  ]
  assert 0 < shares[0][-1] <= 0.5 and shares[1] == [1.0, 1.0]
  table = dict(re.findall(r'^\| `(\w+)` \| (\S+) \|', text, re.M))
  fields = {k: str(v) for k, v in base.rollout().items() if k != 'mesh'}
  assert table == fields


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'rollout.buffer': 1, 'rollout.every': 2}, 'rollout.buffer.*2 or more'),
    ({'rollout.fraction': 1.0}, "losses.labels: uses the data's answers"),
    ({'rollout.max_new_tokens': 64}, 'rollout.max_new_tokens.*data.length, 64'),
    ({'rollout.staleness': 1}, 'rollout.staleness.*rollout.devices is 0'),
    (
      {'rollout.staleness': 1, 'rollout.devices': 1},
      'rollout.devices: found 1, of 1 devices',
    ),
    ({'losses.labels.part': 'sampled'}, 'losses.labels.part.*as labels'),
  ],
)
def test_conflicting_settings_are_refused(folder, changes, words):
  config = _config(folder)
  config.update_from_flattened_dict(changes)
  with pytest.raises(errors.ConfigError, match=words):
    check_mode.main(config, str(folder / 'refused'))


def test_old_workdirs_have_no_rollouts(folder):
  """The workdir is from a version without rollouts."""
  config = _config(folder)
  config.teacher.source = 'live'
  config.losses = dict(kl=base.term('forward_kl'))
  old = config.to_dict()
  del old['rollout']
  workdir = folder / 'old'
  workdir.mkdir()
  (workdir / 'config.json').write_text(json.dumps(old))
  check_mode.main(config, str(workdir))
  config.teacher.source = 'on_policy'
  with pytest.raises(
    errors.ConfigError, match="teacher.source: recorded 'live', now 'on_policy'"
  ):
    check_mode.main(config, str(workdir))


def test_served_teachers_score_sampled_answers(folder):
  config = _config(folder)
  with served_cases.running() as server:
    config.teacher.source = 'on_policy_server'
    config.teacher.server.url = server.url
    config.teacher.server.folder = str(folder / 'served')
    run = resolve.resolve(config, jax.devices())
    rows = training_rows.prepare(run, lambda line: None)
    source = source_lib.of(run.config)
    teacher = source.open(run, rows)
    read = training_rows.read(run, rows)
    feed = source.feed(run, read, 'digest', teacher, None)
    params = load_params.load(run.student, 0, 'student.init', None)
    fed = feed(0, params, feed.read(0))
    teacher.close()
  batch, told = jax.device_get((fed.batch, fed.targets.distribution))
  counted = batch.weights != 0
  assert (counted & (batch.parts == types.SAMPLED)).any()
  best = -np.sort(-server.model[batch.tokens[counted]], axis=-1)[:, :20]
  logprobs = -np.sort(-told.logprobs[counted], axis=-1)
  np.testing.assert_allclose(logprobs, best, rtol=1e-5)
