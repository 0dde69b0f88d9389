"""Progress lines: contents and frequency."""

import time

import pytest

from kd.core import progress


class _Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


@pytest.mark.parametrize(
  'tokens, speed',
  [(0, '0.50 rows/s'), (1, '0.50 tokens/s'), (512, '256 tokens/s')],
)
def test_speed_and_time_left_exclude_the_compilation(tokens, speed):
  clock = _Clock()
  task = progress.Progress(
    'scoring', print, 100, 'rows', tokens=tokens, clock=clock
  )
  clock.now = 90
  assert task.line() == 'scoring: 0/100 rows  90 s so far'
  clock.now = 100
  task.add(4)
  assert task.line() == 'scoring: 4/100 rows  100 s so far'
  clock.now = 104
  task.set(6)
  assert task.line() == f'scoring: 6/100 rows  {speed}  ETA 0:03:08'


def test_tasks_without_a_total():
  clock = _Clock()
  task = progress.Progress('compiling', print, clock=clock)
  clock.now = 20
  assert task.line() == 'compiling: 20 s so far'


@pytest.mark.parametrize('is_terminal, seconds', [(True, 10), (False, 60)])
def test_logs_have_fewer_lines_than_terminals(
  is_terminal, seconds, monkeypatch
):
  monkeypatch.setattr(progress.sys.stdout, 'isatty', lambda: is_terminal)
  assert [progress.interval_s(n) for n in (0, 1, 2)] == [10, seconds, seconds]


def test_lines_come_from_another_thread_until_the_task_ends(monkeypatch):
  monkeypatch.setattr(progress, 'interval_s', lambda lines: 0.02)
  lines = []
  with (
    pytest.raises(ZeroDivisionError),
    progress.Progress('compiling', lines.append),
  ):
    while not lines:  # As a compilation that holds this thread.
      time.sleep(0.01)
    raise ZeroDivisionError
  count = len(lines)
  time.sleep(0.1)
  assert lines[0] == 'compiling: 0 s so far' and len(lines) == count
