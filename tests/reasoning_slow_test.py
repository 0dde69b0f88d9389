"""Tests worked solutions of a real model: files, kills and training."""

import json
import os
import re
import signal
import time

import jax
import numpy as np
import pytest

from kd.config import base
from kd.config import command_line
from kd.core import errors
from kd.core import types
from kd.input_pipeline import rows as rows_lib
from kd.modes import train as train_mode
from kd.run import resolve
from kd.train import training_rows
from tests import command
from tests import page_commands

_STEP = re.compile(r'(-?\d+)([+-])(\d+)=(-?\d+)')
PROBLEMS = 12


def _arguments(folder, *more):
  """Returns the arguments of the page's command, with fewer problems."""
  (arguments,) = page_commands.commands('docs/reasoning.md')
  arguments.remove('--workdir=/tmp/kd-traces')
  return [
    *arguments,
    f'--workdir={folder}',
    f'--config.reasoning.count={PROBLEMS}',
    '--config.reasoning.samples=3',
    '--config.reasoning.temperature=1.0',
    '--config.reasoning.concurrency=3',
    *more,
  ]


def _files(folder):
  found = {}
  for name in sorted(os.listdir(folder / 'traces')):
    found[name] = (folder / 'traces' / name).read_bytes()
  return found


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  folder = tmp_path_factory.mktemp('straight')
  code, out, err = command.run(_arguments(folder))
  assert code == 0, err
  return folder, out


def test_traces_are_correct_and_counted(straight):
  folder, out = straight
  files = _files(folder)
  traces = [json.loads(line) for line in files['traces.jsonl'].splitlines()]
  assert len({t['problem'] for t in traces}) >= PROBLEMS // 2
  for trace in traces:
    # Computed independently of the project's arithmetic.
    steps = _STEP.findall(trace['rationale'])
    assert steps
    for a, sign, b, c in steps:
      assert int(c) == (int(a) + int(b) if sign == '+' else int(a) - int(b))
    assert trace['answer'] == steps[-1][3]
    assert trace['targets'].startswith(trace['rationale'])
    assert trace['provenance']['votes'][trace['answer']] >= 1
    assert trace['provenance']['logprob'] < 0
  summary = json.loads(files['summary.json'])
  assert summary['samples'] == 3 * PROBLEMS
  assert summary['accepted'] == len(traces)
  assert f'{len(traces)} of 36 samples' in out
  assert b'# Chains of thought' in files['report.md']


def test_killed_and_uninterrupted_runs_write_equal_files(straight, tmp_path):
  process = command.start(_arguments(tmp_path))
  samples = tmp_path / 'traces' / 'samples.jsonl'
  end = time.monotonic() + 900
  while not (samples.exists() and samples.read_bytes().count(b'\n')):
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  command.finish(process)
  code, _, err = command.run(_arguments(tmp_path))
  assert code == 0, err
  assert _files(tmp_path) == _files(straight[0])
  # Another temperature needs a new run; other rules select from the same run.
  code, _, err = command.run(
    _arguments(tmp_path, '--config.reasoning.temperature=0.5')
  )
  assert code == 2 and 'temperature: recorded 1.0, now 0.5' in err


def _config(folder, **changes):
  config = command_line.load('configs/quickstart.py')
  config.steps = 20
  config.optimizer.lr.warmup_steps = 2
  config.data.mixture = 'arithmetic_few'
  config.data.batch_size = 4
  config.data.length = 64
  config.data.examples = 40
  config.data.folder = str(folder)
  config.evaluation.every, config.evaluation.sets = 0, {}
  config.data.rationale = base.rationale(
    base.schedule('linear', begin=0.0, end=1.0, first_step=0, last_step=10)
  )
  config.update_from_flattened_dict(changes)
  return config


def _prepare(config):
  run = resolve.resolve(config, jax.devices()[:1])
  return run, train_mode.prepare(run, lambda line: None)


def test_steps_are_dropped_from_training_rows(tmp_path):
  config = _config(tmp_path)
  run, data = _prepare(config)
  rows = training_rows.read(run, data.train)
  plain = rows_lib.Rows(
    data.train, 4, config.seed, shuffle=True, rates='examples'
  )
  numbers = range(4)
  np.testing.assert_array_equal(
    rows(0, numbers).tokens, plain(0, numbers).tokens
  )
  share = lambda batch: (np.asarray(batch.parts) == types.RATIONALE).sum()
  assert 0 < share(rows(5, numbers)) < share(plain(5, numbers))
  late = rows(15, numbers)
  assert not share(late) and share(plain(15, numbers))
  text = run.tokenizer.decode(late.tokens[0][late.segment_ids[0] == 1].tolist())
  assert re.fullmatch(r'Q: [0-9+-]+=\?\nA:\n? #### -?\d+', text), text


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'data.mixture': 'arithmetic_answer'}, 'has no rationale'),
    ({'teacher.source': 'cached'}, "data.rationale.drop_fraction: .*'cached'"),
    (
      {'data.rationale.drop_fraction.end': 2.0},
      'drop_fraction: found 2; legal: a number, 0 or more and at most 1',
    ),
  ],
)
def test_dropping_steps_where_impossible_is_refused(tmp_path, changes, words):
  with pytest.raises(errors.ConfigError, match=words):
    _prepare(_config(tmp_path, **changes))
