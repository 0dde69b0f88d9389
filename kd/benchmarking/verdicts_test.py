"""Tests verdicts on results with known differences."""

import numpy as np
import pytest

from kd.benchmarking import measuring
from kd.benchmarking import verdicts
from kd.core import errors
from kd.evaluation import intervals
from kd.evaluation import results
from kd.metrics import metric

_SET, _N = 'held_out', 400


def _result(shift=0.0, right=0.5, seed=0):
  """Returns a result whose mean NLL is near 1 + shift."""
  hard = np.random.default_rng(9).gamma(4, 0.25, _N)  # For all models.
  rng = np.random.default_rng(seed)
  weight = np.arange(_N) % 7 + 3.0
  nll = (hard + shift + rng.normal(0, 0.05, _N)) * weight
  exact = (np.random.default_rng(8).uniform(size=_N) < right).astype(float)
  metrics = {'nll': nll.sum() / weight.sum(), 'exact_match': exact.mean()}
  columns = {'weight': weight, 'nll': nll, 'exact_match': exact}
  return results.Result(
    {f'eval/{_SET}/{name}': value for name, value in metrics.items()},
    {_SET: {name: column.tolist() for name, column in columns.items()}},
    [],
    {_SET: {'exact_match': metric.Description('exact match')}},
  )


def _decide(runs, reference, name='nll', paired=False, margin=0.0):
  measure = verdicts.measure_of(runs, reference, _SET, name)
  return verdicts.decide(measure, _SET, runs, reference, paired, margin)


def test_a_verdict_follows_the_direction_of_the_metric():
  usual, other = _result(seed=1), _result(seed=2)
  assert _decide([usual], [other]).verdict == verdicts.UNCLEAR
  lower = _decide([_result(shift=-0.05)], [usual])
  assert lower.verdict == verdicts.SHIP and lower.difference.high < 0
  higher = _decide([_result(shift=0.05)], [usual])
  assert higher.verdict == verdicts.WORSE and higher.difference.low > 0
  # The examples differ far more than the models: this needs pairing.
  alone = intervals.mean(usual.scores[_SET]['nll'])
  assert alone.high - alone.low > 20 * (higher.difference.high - 0.05)

  better, auto = _result(right=0.6), 'auto'
  assert _decide([better], [usual], auto).verdict == verdicts.SHIP
  assert _decide([usual], [better], auto).verdict == verdicts.WORSE
  assert _decide([usual], [better], auto).measure.metric == 'exact_match'
  within = _decide([usual], [better], auto, margin=0.2)
  assert within.verdict == verdicts.SHIP


def test_no_verdict_if_seeds_differ_as_much_as_the_models():
  usual = _result(seed=1)
  shifts = (-0.09, 0.0, -0.06)
  runs = [_result(shift, seed=n) for n, shift in enumerate(shifts)]
  assert _decide([runs[0]], [usual]).verdict == verdicts.SHIP
  assert _decide(runs, [usual]).verdict == verdicts.UNCLEAR
  # Each run is as much better than the baseline of its own seed.
  baselines = [_result(x + 0.05, seed=9) for x in shifts]
  assert _decide(runs, baselines).verdict == verdicts.UNCLEAR
  assert _decide(runs, baselines, paired=True).verdict == verdicts.SHIP


def test_means_over_seeds_are_taken_per_example():
  runs = [_result(seed=n, shift=n / 10, right=n / 4) for n in range(3)]
  mean = measuring.mean(runs)
  for name in ('nll', 'exact_match'):
    expected = np.mean([run.scores[_SET][name] for run in runs], axis=0)
    np.testing.assert_allclose(mean.scores[_SET][name], expected)
    key = f'eval/{_SET}/{name}'
    expected = np.mean([run.metrics[key] for run in runs])
    assert mean.metrics[key] == pytest.approx(expected)
  runs[1].scores[_SET]['weight'][3] += 1
  with pytest.raises(ValueError, match='different examples'):
    measuring.mean(runs)


def test_a_missing_metric_is_refused():
  with pytest.raises(errors.ConfigError, match=r"did you mean 'exact_match'"):
    verdicts.measure_of([_result()], [], _SET, 'exact_mach')
  with pytest.raises(errors.ConfigError, match=r"did you mean 'exact_match'"):
    verdicts.check_metric([_result()], 'exact_mach')
  without = _result()
  del without.scores[_SET]['exact_match']
  with pytest.raises(errors.ConfigError, match=r"not measured 'exact_match'"):
    verdicts.measure_of([_result()], [without], _SET, 'exact_match')
  auto = verdicts.measure_of([_result()], [without], _SET, 'auto')
  assert auto.metric == 'nll'
  # A task's exact match may not be a mean over examples.
  other = _result()
  other.metrics[f'eval/{_SET}/exact_match'] = 0.9
  auto = verdicts.measure_of([other], [other], _SET, 'auto')
  assert auto.metric == 'nll'


@pytest.mark.parametrize(
  ('fail_on', 'failing'),
  [
    ('worse', {verdicts.WORSE}),
    ('not_distinguishable', {verdicts.WORSE, verdicts.UNCLEAR}),
    ('nothing', set()),
  ],
)
def test_exit_code(fail_on, failing):
  for verdict in (verdicts.SHIP, verdicts.UNCLEAR, verdicts.WORSE, None):
    if verdict not in failing:
      verdicts.check(verdict, fail_on, 'teacher', 'x')
      continue
    with pytest.raises(verdicts.VerdictError, match='compared with') as e:
      verdicts.check(verdict, fail_on, 'teacher', 'x')
    assert e.value.exit_code == 4


def test_one_worse_set_decides_the_verdict():
  usual, better = _result(seed=1), _result(shift=-0.05)
  said = [
    _decide([usual], [_result(seed=2)]),
    _decide([better], [usual]),
    _decide([usual], [better]),
  ]
  assert verdicts.overall(said) == verdicts.WORSE
  assert verdicts.overall(said[:2]) == verdicts.SHIP
  assert verdicts.overall(said[:1]) == verdicts.UNCLEAR
  assert verdicts.overall([]) is None
