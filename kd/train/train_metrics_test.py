"""Nonfinite steps end the run, or are skipped and counted up to a limit."""

import json
import math

import numpy as np
import pytest

from kd.core import errors
from kd.train import train_metrics
from kd.train import update


def _out(loss):
  return update.Output(
    sums={'kl': np.float32(loss), 'ce': np.float32(1.0)},
    totals={'kl': np.float32(2.0), 'ce': np.float32(2.0)},
    weight=np.float32(2.0),
    loss=np.float32(loss),
    scalars={'grad_norm': np.float32(loss)},
    nonfinite=np.zeros(1, np.float32),
    finite=np.isfinite(loss),
  )


def _window(state, allowed, say):
  advise = lambda teachers, step: (
    f'unchanged since step {step}, {list(teachers)}'
  )
  return train_metrics.MetricsWindow(
    state, allowed, ['the teacher (A)'], advise, say
  )


def test_the_first_nonfinite_loss_stops_and_is_named():
  with pytest.raises(
    errors.NonFiniteError,
    match="step 7: loss 'kl' is not finite; unchanged since step 6, .., or",
  ):
    _window({}, 0, print).add(7, _out(math.nan))


def test_a_nonfinite_teacher_is_named_before_its_losses():
  out = _out(math.nan).replace(nonfinite=np.float32([0, 3]))
  names = ['the teacher (teacher.init A)', 'the teacher (others.b.init B)']
  w = train_metrics.MetricsWindow(
    {}, 0, names, lambda bad, step: f'{bad}, {step}', print
  )
  with pytest.raises(errors.NonFiniteError) as e:
    w.add(1, out)
  assert e.value.teachers == (names[1],)
  assert str(e.value) == (
    f'step 1: the targets of {names[1]} are not finite; {[names[1]]}, 0'
  )


def test_skipped_updates_are_counted_and_excluded_from_means():
  said = []
  w = _window({}, 2, said.append)
  for step, loss in enumerate([1.0, math.nan, math.inf, 3.0, math.nan], 1):
    # As with a checkpoint between any two steps.
    w = _window(json.loads(json.dumps(w.state())), 2, said.append)
    w.add(step, _out(loss))
  metrics = w.take()
  assert metrics['train/nonfinite'] == 3.0
  assert metrics['train/loss/kl'] == (1.0 + 3.0) / 4.0
  assert metrics['train/grad_norm'] == 2.0
  assert metrics['train/grad_norm_max'] == 3.0
  assert [line[:6] for line in said] == ['step 2', 'step 3', 'step 5']
  assert w.take() == {'train/nonfinite': 0.0}


def test_consecutive_skips_are_counted_across_writes_and_restarts():
  w = _window({}, 2, print)
  w.add(1, _out(math.nan))
  w.take()
  w = _window(w.state(), 2, print)
  w.add(2, _out(math.nan))
  with pytest.raises(
    errors.NonFiniteError, match=r'2 before it; unchanged since step 0, \[\]$'
  ):
    w.add(3, _out(math.nan))


def test_mfu_is_operations_over_time():
  work = train_metrics.StepWork(100, flops=6e12, peak_flops=10e12)
  times = {'perf/step_time_s': 1.5}
  assert work.with_achieved(times) == {
    'perf/step_time_s': 1.5,
    'perf/tflops_per_s': 4.0,
    'perf/mfu': 0.4,
  }
  assert work.with_achieved({}) == {}
