"""Rows are sampled ahead with parameters that do not depend on timing."""

import time

import numpy as np
import pytest

from kd.core import errors
from kd.core import types
from kd.sampling import requests
from kd.teachers import rollout_answers
from kd.teachers import sampling_ahead

_ROWS, _TOKENS, _STOP = 3, 4, 2


def _batch(step):
  ids = np.full((_ROWS, 2), step, np.int32)
  return types.Batch(*[ids] * 6, row_id=ids[:, 0])


def _asked(step, batch):
  assert (batch.tokens == step).all()
  return {row: requests.Request((step,), row, 1) for row in (0, 2)}


class _Sampler:
  """Returns the parameters as answers, after a random time."""

  def __init__(self, seed=0, bad=None):
    self._random, self._bad = np.random.default_rng(seed), bad

  def __call__(self, params, asked, progress):
    for _ in range(3):
      time.sleep(self._random.uniform(0, 0.004))
      progress(0, len(asked))
    (step,) = asked[0].ids
    if step == self._bad:
      raise errors.NonFiniteError('bad logits')
    ends = dict(stop_id=_STOP, stop_logprob=-float(step))
    return [
      [requests.Sample((params, step), (-1.0, -0.5), 'text', 'stop', **ends)],
      [requests.Sample((params,), (-2.0,), '', 'length')],
    ]


def _make(staleness, steps=11, seed=0, bad=None):
  return sampling_ahead.SamplingAhead(
    *(_batch, _asked, _Sampler(seed, bad), lambda params: params),
    *(staleness, steps, (_ROWS, _TOKENS), 60.0),
  )


def _train(ahead, steps, seed=0):
  """Takes the rows of steps with random delays; params are update counts."""
  found, random = [], np.random.default_rng(seed)
  for step in steps:
    batch, answers = ahead.take(step, params=step)
    assert (batch.tokens == step).all()
    time.sleep(random.uniform(0, 0.02))
    found.append(answers)
  return found


@pytest.mark.parametrize('staleness', [1, 2, 3])
def test_rows_of_a_step_do_not_depend_on_sampling_speed(staleness):
  ahead = _make(staleness)
  whole = _train(ahead, range(11))
  ahead.close()
  ages = [step - answers.sampled_at for step, answers in enumerate(whole)]
  assert (
    ages[:7]
    == {
      1: [0, 1, 1, 1, 1, 1, 1],
      2: [0, 1, 2, 1, 2, 1, 2],
      3: [0, 1, 2, 3, 1, 2, 3],
    }[staleness]
  )
  for step, answers in enumerate(whole):
    assert list(answers.samples) == [0, 2]
    assert answers.samples[0].ids == (answers.sampled_at, step)
    assert answers.samples[0].stop_logprob == -step
    assert answers.samples[2].ids == (answers.sampled_at,)
  for stop in range(1, 11):
    begun = _make(staleness, seed=stop)
    first = _train(begun, range(stop), seed=stop)
    state = begun.state()
    begun.close()
    resumed = _make(staleness, seed=stop + 1)
    assert {k: v.shape for k, v in resumed.state().items()} == {
      k: v.shape for k, v in state.items()
    }
    resumed.load(state)
    again = first + _train(resumed, range(stop, 11))
    resumed.close()
    assert again == whole


def test_extended_runs_sample_the_missing_answers():
  ahead = _make(2, steps=5)
  _train(ahead, range(5))
  state = ahead.state()
  ahead.close()
  assert rollout_answers.get(state, 0) is None
  longer = _make(2, steps=9)
  longer.load(state)
  updates = [answers.sampled_at for answers in _train(longer, range(5, 9))]
  longer.close()
  assert updates == [5, 5, 6, 6]


def test_errors_are_raised_at_their_step():
  ahead = _make(3, bad=2)
  assert len(_train(ahead, range(2))) == 2
  with pytest.raises(errors.NonFiniteError, match='bad logits'):
    ahead.take(2, params=2)
  ahead.close()


def test_a_run_that_ends_does_not_wait_for_parameters():
  ahead = _make(1)
  ahead.take(0, params=0)
  ahead.close()
