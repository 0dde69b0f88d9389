"""Tests for means, writers and timers."""

import io
import json
import math
import os

import duckdb
import numpy as np
import pytest

from kd.core import errors
from kd.metrics import means
from kd.metrics import writers


def test_means_equal_numpy_before_and_after_json():
  rng = np.random.default_rng(0)
  values, weights = rng.normal(size=50), rng.uniform(0, 3, 50)
  running = means.Means()
  for v, w in zip(values, weights):
    # As with a checkpoint between any two steps.
    running = means.Means(json.loads(json.dumps(running.state())))
    running.add('x', v * w, w)
  running.add('nothing', 0.0, 0.0)
  computed = running.compute()
  np.testing.assert_allclose(
    computed['x'], np.average(values, weights=weights), rtol=1e-12
  )
  assert 'nothing' not in computed


def test_micro_batches_are_averaged_by_weight():
  running = means.Means()
  running.add('loss', 10.0, 1)
  running.add('loss', 9.0, 9)
  assert running.compute()['loss'] == pytest.approx(1.9)


def test_json_lines_can_be_resumed_and_are_read_by_duckdb(tmp_path):
  path = tmp_path / writers.JSON_LINES
  first = writers.JsonLinesWriter(str(tmp_path), 0, evaluated=False)
  for step in (5, 10, 15):
    first.write_scalars(step, {'train/loss': step / 10})
  first.write_scalars(15, {'eval/a/nll': 1.0})
  first.close()
  with open(path, 'a', encoding='utf-8') as f:
    f.write('{"step": 20, "phase": "tr')  # Killed in the middle of a line.
  again = writers.JsonLinesWriter(str(tmp_path), 10, evaluated=True)
  again.write_scalars(15, {'train/loss': math.nan})
  again.close()
  lines = [json.loads(x) for x in path.read_text().splitlines()]
  assert [x['step'] for x in lines] == [5, 10, 15]
  assert lines[-1] == {'step': 15, 'phase': 'train', 'train/loss': 'NaN'}
  rows = duckdb.sql(
    f"SELECT step, phase FROM read_json_auto('{path}') ORDER BY step"
  ).fetchall()
  assert rows == [(5, 'train'), (10, 'train'), (15, 'train')]


@pytest.mark.parametrize('evaluated', [False, True])
def test_repeated_evaluations_are_dropped(evaluated, tmp_path):
  first = writers.JsonLinesWriter(str(tmp_path), 0, evaluated=False)
  first.write_scalars(4, {'eval/a/nll': 1.0})
  first.write_scalars(8, {'train/loss': 2.0})
  first.write_scalars(8, {'eval/a/nll': 1.0})
  first.close()
  writers.JsonLinesWriter(str(tmp_path), 8, evaluated).close()
  lines = (tmp_path / writers.JSON_LINES).read_text().splitlines()
  assert len(lines) == 2 + evaluated and '"train"' in lines[1]


@pytest.mark.parametrize('line', [b'{"step": 3\n', b'7\n', b'\xff\n', b'{}\n'])
def test_invalid_lines_are_refused_with_their_number(line, tmp_path):
  (tmp_path / writers.JSON_LINES).write_bytes(
    b'{"step": 1, "phase": "train"}\n' + line
  )
  with pytest.raises(errors.ConfigError, match=r'metrics\.jsonl:2: '):
    writers.JsonLinesWriter(str(tmp_path), 9, evaluated=True)


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def _lines(stream):
  writer = writers.TerminalWriter('student', 30, stream)
  for step in (10, 20, 30):
    writer.write_scalars(
      step,
      {
        'train/loss': 2.0,
        'train/grad_norm': 9.0,
        'perf/step_time_s': 0.5,
        'perf/tokens_per_s': 100.0,
      },
    )
  writer.write_scalars(30, {'eval/held_out/nll': 1.25})
  writer.close()
  return stream.getvalue()


def test_progress_is_overwritten_only_on_a_terminal():
  log = _lines(io.StringIO())
  assert log.count('\n') == 4 and '\r' not in log
  assert 'student step 20/30  loss 2  100 tokens/s  ETA 0:00:05' in log
  assert 'held_out/nll 1.2500' in log
  shown = _lines(_Terminal())
  assert shown.count('\n') == 2 and shown.count('\r') == 2


def test_the_timer_excludes_pauses():
  now = [0.0]
  timer = writers.StepTimer(clock=lambda: now[0])
  assert timer.compute(100) == {}
  for _ in range(4):
    now[0] += 2.0
    timer.wait(0.5)
    timer.step()
  now[0] += 100.0
  timer.save(30.0)
  timer.pause(100.0)
  assert timer.compute(100) == {
    'perf/step_time_s': 2.0,
    'perf/tokens_per_s': 50.0,
    'perf/data_wait_share': 0.25,
    'perf/checkpoint_s': 30.0,
  }


def test_the_timer_excludes_the_compilation():
  now = [0.0]
  timer = writers.StepTimer(clock=lambda: now[0])
  now[0] += 60.0  # Compiles.
  timer.step()
  timer.compiled()
  # It counts if it is the only step of the interval.
  assert timer.compute(120)['perf/tokens_per_s'] == 2.0
  for _ in range(4):
    now[0] += 2.0
    timer.step()
  assert timer.compute(120)['perf/tokens_per_s'] == 60.0
  timer.restart()
  assert timer.compute(120) == {}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  for index, files in ((1, 0), (0, 2)):
    monkeypatch.setattr(writers.jax, 'process_index', lambda i=index: i)
    writer = writers.create(
      str(tmp_path), 'student', 10, 0, True, tensorboard=True
    )
    writer.write_scalars(1, {'train/loss': 1.0})
    writer.flush()
    writer.close()
    assert len(list(tmp_path.iterdir())) == files


def test_a_flush_syncs_every_file(tmp_path, monkeypatch):
  """A mounted bucket stores an open file when it is synced."""
  synced = {}
  sync = os.fsync

  def recorded(descriptor):
    sync(descriptor)
    path = os.readlink(f'/proc/self/fd/{descriptor}')
    synced[os.path.basename(path)] = os.path.getsize(path)

  monkeypatch.setattr(os, 'fsync', recorded)
  folder = tmp_path / '[8]'
  folder.mkdir()
  writer = writers.create(str(folder), 'student', 9, 0, True, tensorboard=True)
  writer.write_scalars(1, {'train/loss': 1.0})
  writer.flush()
  files = {p.name: p.stat().st_size for p in folder.iterdir()}
  assert len(files) == 2
  assert synced == files
  writer.close()
