"""Tests teacher-only prefixes against rows that are joined by hand."""

import json

import jax
import numpy as np
import pytest

from kd.config import base
from kd.configs import quickstart
from kd.core import errors
from kd.core import types
from kd.input_pipeline import prefix_template
from kd.input_pipeline import rows as rows_lib
from kd.modes import cache as cache_mode
from kd.modes import train as train_mode
from kd.run import resolve
from kd.run import source as source_lib
from kd.run import teacher_prefix
from kd.train import training_rows
from kd.train.feeds import cached
from kd.train.feeds import live as live_feed
from tests import alternating
from tests import command
from tests import page_commands

_PREFIX = 'It is {solution}, since {{a}} {n}.\n'
_LENGTH, _LONGER = 64, 160


def _config(folder, **teacher):
  rows = [
    {
      'prompt': f'Q: {i}+{i}=?\nA:\n',
      'completion': f'{2 * i}',
      'solution': '1' * (i % 4),
      'n': i,
    }
    for i in range(1, 25)
  ]
  path = folder / 'sums.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  c = quickstart.get_config()
  c.teacher.update(prefix=_PREFIX, length=_LONGER)
  c.teacher.update(teacher)
  c.data.update(
    mixture=str(path),
    length=_LENGTH,
    batch_size=4,
    folder=str(folder / 'rows'),
  )
  c.evaluation.update(every=0, baseline=False, sets={})
  return c


def _first_batch(config):
  """Returns a run's teachers, their first batch, and its targets."""
  run = resolve.resolve(config, jax.devices()[:1])
  prepared = training_rows.prepare(run, lambda line: None)
  source = source_lib.of(config)
  opened = source.open(run, prepared)
  rows = training_rows.read(run, prepared)
  teachers = live_feed.load(run)
  score = live_feed.targets_on(run, teachers, run.mesh)
  feed = source.feed(run, rows, 'digest', opened, score)
  batch = feed.read(0)
  return run, teachers[0], batch, score(jax.device_put(batch)), prepared


def _alone(teacher, ids):
  """Returns the teacher's hidden states of one text."""
  tokens = np.asarray([ids], np.int32)
  batch = types.Batch(
    tokens,
    tokens,
    np.arange(len(ids), dtype=np.int32)[None],
    np.ones_like(tokens),
    np.zeros_like(tokens),
    np.ones(tokens.shape, np.float32),
    np.zeros(1, np.int32),
  )
  nothing = types.TapSpec((), ())
  return np.asarray(teacher.model.forward(teacher.params, batch, nothing)[0][0])


def test_live_teachers_read_the_prefix_of_each_row(tmp_path):
  with command.compiled_once(), alternating.variants():
    run, teacher, batch, targets, _ = _first_batch(_config(tmp_path))
    (dense,) = targets.distribution.teachers
    hidden = np.asarray(dense.final_hidden)
    assert hidden.shape[:2] == batch.tokens.shape == (4, _LENGTH)
    words, compared = run.tokenizer, 0
    for row in range(2):
      for segment in range(1, batch.segment_ids[row].max() + 1):
        at = np.flatnonzero(batch.segment_ids[row] == segment)
        own = batch.tokens[row, at].tolist()
        number = int(words.decode(own).split('+')[1].split('=')[0])
        text = f'It is {"1" * (number % 4)}, since {{a}} {number}.\n'
        prefix = words.encode(text)
        assert own[0] == words.bos_id
        whole = _alone(teacher, [own[0], *prefix, *own[1:]])
        found = hidden[row, at]
        np.testing.assert_allclose(found, whole[len(prefix) :], atol=2e-4)
        without = _alone(teacher, own)
        assert np.abs(found - without)[1:].max() > 0.05
        compared += 1
    assert compared > 4
    # Rows sampled by the student keep the id of the row that they replace.
    again = source_lib.of(run.config).open(run, _prepared(run))
    other = again(batch.replace(tokens=np.flip(batch.tokens, 1), teacher=None))
    np.testing.assert_array_equal(other.teacher.indices, batch.teacher.indices)


def test_the_command_on_the_page_also_trains_on_sampled_answers(tmp_path):
  (arguments,) = page_commands.commands('docs/teacher_prompts.md')
  config, _ = page_commands.parse(arguments)
  told = _config(tmp_path).data
  config.update_from_flattened_dict(
    {
      'steps': 2,
      'optimizer.lr.warmup_steps': 1,
      'teacher.source': 'on_policy',
      'rollout.fraction': 0.5,
      'rollout.max_new_tokens': 4,
      'rollout.batch_size': 4,
      'teacher.length': 96,
      'data.pack': False,
      'data.mixture': told.mixture,
      'data.length': told.length,
      'data.batch_size': told.batch_size,
      'data.folder': told.folder,
      'evaluation.every': 0,
      'evaluation.baseline': False,
      'log.every': 1,
      'log.tensorboard': False,
    }
  )
  config.evaluation.sets = {}
  run = str(tmp_path / 'run')
  with command.compiled_once(), alternating.variants():
    train_mode.main(config, run)
  lines = [x for x in command.metrics(run) if 'train/loss/kl' in x]
  assert {x['train/teacher/left_out'] for x in lines} == {0.0}
  assert all(x['train/rollout/fraction'] == 0.5 for x in lines)
  assert all(np.isfinite(x['train/loss/kl']) for x in lines)


def _prepared(run):
  return training_rows.prepare(run, lambda line: None)


def test_cached_targets_equal_live_ones(tmp_path):
  config = _config(tmp_path)
  config.cache.update(folder=str(tmp_path / 'cache'), batch_size=4)
  config.cache.method = base.cache_method('hidden')
  with command.compiled_once(), alternating.variants():
    run, _, batch, targets, prepared = _first_batch(config)
    cache_mode.main(config, str(tmp_path / 'report'))
    config.teacher.source = 'cached'
    cached_run = resolve.resolve(config, jax.devices()[:1])
    kept = cached.open_cache(cached_run, prepared).read(batch)
    config.teacher.prefix = _PREFIX + '.'
    other = resolve.resolve(config, jax.devices()[:1])
    with pytest.raises(errors.ConfigError, match='prefix'):
      cached.open_cache(other, prepared)
    config.teacher.update(source='live', prefix=_PREFIX, length=100)
    config.cache.folder = str(tmp_path / 'short')
  counted = batch.weights != 0
  (dense,) = targets.distribution.teachers
  found = np.asarray(kept, np.float32)[counted]
  expected = np.asarray(dense.final_hidden)[counted]
  np.testing.assert_allclose(found, expected, atol=0.05)
  rows = teacher_prefix.rows(
    resolve.resolve(config, jax.devices()[:1]), prepared, all_fit=True
  )
  with pytest.raises(errors.ConfigError, match='teacher.length.*row'):
    rows(rows_lib.Numbered(prepared)([0]))


def test_an_empty_prefix_changes_no_bit(tmp_path):
  with command.compiled_once(), alternating.variants():
    # Without a prefix the rows have no teacher columns.
    config = _config(tmp_path, prefix='', length=0)
    _, _, _, expected, prepared = _first_batch(config)
    assert not prepared[0].has_prefixes
    config = _config(tmp_path, prefix='{nothing}', length=_LENGTH)
    path = config.data.mixture
    with open(path) as f:
      rows = [json.loads(line) | {'nothing': ''} for line in f]
    config.data.mixture = str(tmp_path / 'more' / 'sums.jsonl')
    (tmp_path / 'more').mkdir()
    with open(config.data.mixture, 'w') as f:
      f.writelines(json.dumps(row) + '\n' for row in rows)
    _, _, batch, found, prepared = _first_batch(config)
    assert prepared[0].has_prefixes and batch.teacher is not None
    lookup = rows_lib.Numbered(prepared)
    assert set(lookup.prefixes(0)) == {''} and lookup.prefixes(-1) == []
    used = batch.segment_ids > 0
    for got, like in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
      if got.shape[:2] == used.shape:
        got, like = np.asarray(got)[used], np.asarray(like)[used]
      np.testing.assert_array_equal(got, like)


def test_examples_too_long_for_the_teacher_train_only_on_labels(tmp_path):
  config = _config(tmp_path)
  run = resolve.resolve(config, jax.devices()[:1])
  prepared = _prepared(run)
  config.teacher.length = 100
  short = resolve.resolve(config, jax.devices()[:1])
  with pytest.raises(errors.ConfigError, match='needs .* positions'):
    _prepared(short)
  batch = rows_lib.Numbered(prepared)([0])
  found = source_lib.of(config).open(short, prepared)(batch)
  whole = source_lib.of(config).open(run, prepared)(batch)
  is_out = found.teacher.indices < 0
  used = batch.segment_ids > 0
  assert (whole.teacher.indices >= 0).sum() == used.sum()
  assert 0 < (is_out & used).sum() < used.sum()
  np.testing.assert_array_equal(found.weights, batch.weights)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    (
      {'teacher.prefix': '{solutoin}'},
      "no value in column solutoin.*mean 'solution'",
    ),
    ({'teacher.prefix': '{0}'}, 'teacher.prefix.*has the field {0}'),
    ({'teacher.prefix': 'a } b'}, 'teacher.prefix'),
    ({'teacher.source': 'none'}, "teacher.prefix.*source is 'none'"),
    (
      {'losses': {'a': base.term('attention_maps')}},
      'teacher.prefix.*attention maps',
    ),
  ],
)
def test_incompatible_settings_are_refused(tmp_path, changes, words):
  config = _config(tmp_path)
  with config.unlocked():
    for name, value in changes.items():
      if name == 'losses':
        config.losses = value
      else:
        config.update_from_flattened_dict({name: value})
  if changes.get('teacher.source') == 'none':
    config.losses = {'ce': base.term('cross_entropy')}
    config.teacher.length = 0
  with pytest.raises(errors.ConfigError, match=words):
    _prepared(resolve.resolve(config, jax.devices()[:1]))


def test_prefixes_contain_values_of_columns():
  row = {'a': 'x', 'b': [1, {'c': b'z'.decode()}], 'd': b'bytes', 'e': None}
  written = prefix_template.render('{a}{{{d}}} {b}', row, 'row 1')
  assert written == 'x{bytes} [1, {"c": "z"}]'
  with pytest.raises(
    errors.ConfigError, match='no value in column e.*: a, b, d'
  ):
    prefix_template.render('{e}', row, 'row 1')
