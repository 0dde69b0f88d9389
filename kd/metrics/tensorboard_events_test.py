"""Event files of resumed runs, read by TensorBoard."""

import os

import pytest
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.util import tensor_util

from kd.metrics import tensorboard_events
from kd.metrics import writers


def _shown(folder):
  """Returns (step, value) pairs by tag, as TensorBoard shows them."""
  multiplexer = plugin_event_multiplexer.EventMultiplexer()
  multiplexer.AddRunsFromDirectory(str(folder))
  multiplexer.Reload()
  accumulator = multiplexer.GetAccumulator('.')
  return {
    tag: [
      (e.step, tensor_util.make_ndarray(e.tensor_proto).item())
      for e in accumulator.Tensors(tag)
    ]
    for tag in accumulator.Tags()['tensors']
  }


def _run(folder, steps, restart_after=0, evaluated=False, base=0.0):
  writer = writers.create(
    str(folder), 'student', 100, restart_after, evaluated, tensorboard=True
  )
  for step in steps:
    writer.write_scalars(step, {'train/loss': base + step})
    if step % 2 == 0:
      writer.write_scalars(step, {'eval/a/nll': base + step})
  writer.flush()
  return writer


@pytest.mark.parametrize('evaluated', [False, True])
def test_no_step_is_shown_twice_after_a_restart(evaluated, tmp_path):
  # The first process is killed: its writer is not closed, its file truncated.
  first = _run(tmp_path, range(1, 8))
  (path,) = tmp_path.glob('events.*')
  with open(path, 'ab') as f:
    f.write(b'\x20\0\0\0\0\0\0\0torn')
  steps = [5, 6, 7, 8]
  second = _run(tmp_path, steps, 4, evaluated, base=100.0)
  evaluations = [(2, 2.0), (6, 106.0), (8, 108.0)]
  if evaluated:
    evaluations.insert(1, (4, 4.0))
  wanted = {
    'train/loss': [(s, float(s)) for s in range(1, 5)]
    + [(s, 100.0 + s) for s in steps],
    'eval/a/nll': evaluations,
  }
  assert _shown(tmp_path) == wanted
  # Another restart, from a step that the earlier restart kept.
  third = _run(tmp_path, [4, 5], 3, True, base=200.0)
  assert _shown(tmp_path)['train/loss'] == [
    (1, 1.0),
    (2, 2.0),
    (3, 3.0),
    (4, 204.0),
    (5, 205.0),
  ]
  for writer in (first, second, third):
    writer.close()


def test_a_kill_between_writing_and_deleting_shows_no_step_twice(
  tmp_path, monkeypatch
):
  first = _run(tmp_path, range(1, 8))
  monkeypatch.setattr(os, 'remove', lambda path: None)
  tensorboard_events.drop(str(tmp_path), lambda step, tag: step < 4)
  assert len(list(tmp_path.glob('events.*'))) == 2
  monkeypatch.undo()
  kept = [(1, 1.0), (2, 2.0), (3, 3.0)]
  tensorboard_events.drop(str(tmp_path), lambda step, tag: step < 4)
  assert _shown(tmp_path)['train/loss'] == kept
  first.close()


def test_an_open_tensorboard_shows_the_kept_steps_once(tmp_path):
  first = _run(tmp_path, range(1, 8))
  multiplexer = plugin_event_multiplexer.EventMultiplexer()
  multiplexer.AddRunsFromDirectory(str(tmp_path))
  multiplexer.Reload()
  second = _run(tmp_path, [5, 6], 4, True, base=100.0)
  multiplexer.Reload()
  events = multiplexer.GetAccumulator('.').Tensors('train/loss')
  assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
  for writer in (first, second):
    writer.close()
