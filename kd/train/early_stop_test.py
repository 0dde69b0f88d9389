"""Counts of evaluations without improvement."""

import json
import math

from kd.train import best
from kd.train import early_stop

_NLL = 'eval/held_out/nll'


def _ends(series, highest=False, **arguments):
  """Returns the step at which a series of values ends training, and why."""
  state = {}
  for step, value in enumerate(series):
    # As if the run were resumed after each evaluation.
    stop = early_stop.EarlyStop(
      best.Best(_NLL, highest), **arguments, state=json.loads(json.dumps(state))
    )
    stop.add(step, {_NLL: value})
    state = stop.state()
    if stop.reason:
      return step, stop.reason
  return None


def test_evaluations_without_improvement_are_counted():
  falls = (3.0, 2.0, 2.5, 1.95, 1.94, math.nan, 1.0)
  assert _ends(falls, patience=3, min_delta=0.0) is None
  step, reason = _ends(falls, patience=3, min_delta=0.1)
  assert step == 4
  assert reason == (
    'eval/held_out/nll has not improved by more than 0.1 in 3 evaluations: its '
    'best value was 2 at step 1'
  )
  assert _ends(falls, patience=0, min_delta=9.0) is None
  step, reason = _ends(falls, True, patience=2, min_delta=0.0)
  assert step == 2 and 'was 3 at step 0' in reason
