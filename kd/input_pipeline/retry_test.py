"""Readers that fail, hang or come back."""

import threading
import time

import pytest

from kd.core import errors
from kd.input_pipeline import read_ahead
from kd.input_pipeline import retry

_LOST = OSError('no route to host')


def _failing(times, error=_LOST):
  calls = []

  def call():
    calls.append(len(calls))
    if len(calls) <= times:
      raise error
    return 'rows'

  return call, calls


def test_retries_wait_longer_each_time(monkeypatch):
  waits = []
  monkeypatch.setattr(time, 'sleep', waits.append)
  call, calls = _failing(3)
  assert retry.RetryPolicy(4, 0.5, 1.0).read('x', call) == 'rows'
  assert len(calls) == 4 and waits == [0.5, 1.0, 2.0]


def test_the_last_failure_is_named():
  call, calls = _failing(9)
  with pytest.raises(retry.ReadError) as e:
    retry.RetryPolicy(3, 0.0, 1.0).read('rows.array_record: row 7', call)
  assert len(calls) == 3
  for words in ('rows.array_record: row 7', '3 attempts', 'no route to host'):
    assert words in str(e.value), e.value


def test_user_errors_are_not_retried():
  call, calls = _failing(9, errors.ConfigError('data.mixture', 'empty'))
  with pytest.raises(errors.ConfigError):
    retry.RetryPolicy(3, 0.0, 1.0).read('x', call)
  assert len(calls) == 1


def test_a_hanging_read_is_an_error_and_does_not_block():
  hang = threading.Event()

  def rows(step):
    if step == 5:
      hang.wait()
    return step

  ahead = read_ahead.ReadAhead(rows, 3, 2, timeout_s=0.3)
  assert [ahead.get(5.0), ahead.get(5.0)] == [3, 4]
  with pytest.raises(retry.ReadError, match='rows of step 5: .*timeout_s'):
    while ahead.get(0.05) is None:
      pass
  ahead.close()
  hang.set()


def test_errors_are_raised_at_their_step():
  def rows(step):
    if step == 1:
      raise retry.ReadError('row 4')
    return step

  ahead = read_ahead.ReadAhead(rows, 0, 4, timeout_s=5.0)
  assert ahead.get(5.0) == 0
  with pytest.raises(retry.ReadError, match='row 4'):
    ahead.get(5.0)
  ahead.close()
