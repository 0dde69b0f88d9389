"""Tests a benchmark's files: written, read as an earlier one, and shown."""

import json
import os
import re

import numpy as np
import pytest

from kd.benchmarking import comparable
from kd.benchmarking import cost
from kd.benchmarking import measuring
from kd.benchmarking import page
from kd.benchmarking import pictures
from kd.benchmarking import record
from kd.benchmarking import slices
from kd.benchmarking import verdicts
from kd.core import errors
from kd.evaluation import calibration
from kd.evaluation import intervals
from kd.evaluation import likelihood
from kd.evaluation import measures
from kd.evaluation import results
from kd.losses import eval_sums
from kd.versions import reports

_SET, _N = r'$x^ \frac', 12  # A legal name that would break a formula.

_SETTINGS = {'teachers': [['a', 1.0]], 'samples': {}, 'answer_format': ''}


def _result(seed):
  rng = np.random.default_rng(seed)
  weight = rng.integers(2, 9, _N).astype(float)
  sums = np.zeros((_N, eval_sums.BINS, 3))
  sums[:, 12] = weight[:, None] * [1, 0.83, rng.uniform(0.5, 1)]
  columns = {
    'weight': np.arange(_N) % 3 + 2.0,
    'row': np.arange(_N),
    **{
      name: rng.uniform(0.1, 1, _N) * (np.arange(_N) % 3 + 2)
      for name in ('nll', 'kl', 'acceptance')
    },
    **calibration.columns(sums),
  }
  metrics = likelihood.summarize(columns)
  columns = {name: list(map(float, x)) for name, x in columns.items()}
  named = {f'eval/{_SET}/{name}': value for name, value in metrics.items()}
  return results.Result(named, {_SET: columns}, [], {})


def _cost(*sizes):
  seconds = {f'p{p}': 0.01 * p for p in cost.PERCENTILES}
  timings = [
    cost.Timing(b, n, seconds, seconds, 9.0, 1.0, {}) for b, n in sizes
  ]
  return cost.Cost(10**6, 4 << 20, 2 << 20, 1 << 30, None, timings)


def _benchmark(earlier=()):
  runs = [_result(seed) for seed in (1, 2, 3)]
  entries = [
    record.Entry(title, ['a|b'] * len(x), x, measuring.mean(x), own)
    for title, x, own in (
      (record.MODEL, runs, _cost((1, 16), (4, 16))),
      (record.BASELINE, [_result(9)], None),
    )
  ]
  entries += [one.entry for one in earlier]
  measure = verdicts.measure_of(runs, [], _SET, 'nll')
  verdict = verdicts.decide(measure, _SET, runs, entries[-1].runs, False, 0.0)
  shares = {'nll': intervals.Interval(0.5, 0.4, 0.6)}
  whole = slices.Slice('', '', range(_N), ())
  part = record.Part(_SET, {'a': 1}, entries, [(whole, shares)], verdict)
  return record.Benchmark(
    'new', entries, [part], entries[-1].title, verdict.verdict, _SETTINGS
  )


def test_files_of_an_earlier_benchmark_are_read(tmp_path, monkeypatch):
  first = str(tmp_path / 'first')
  monkeypatch.setenv('HOME', str(tmp_path))
  told = record.write(first, _benchmark(), 'worse')
  assert told['verdict'] in reports.VERDICTS
  file = os.path.join(first, record.FILE)
  assert reports.read(file)['reference'] == record.BASELINE
  with open(file, encoding='utf-8') as f:
    of_model = json.load(f)['sets'][_SET]['measures'][record.MODEL]
  assert len(of_model['ece']['seeds']) == 3
  # The seeds widen the interval: they differ more than the examples do.
  value, low, high = of_model['nll']['value']
  assert low < min(of_model['nll']['seeds']) < value < high

  (earlier,) = record.read(['~/first'], 'benchmark.earlier')
  both = record.read([first, first], 'benchmark.earlier')
  assert [x.entry.title for x in both] == [
    'earlier: new (1)',
    'earlier: new (2)',
  ]
  assert earlier.identities == {_SET: {'a': 1}}
  assert comparable.without_others(earlier, _SETTINGS) == earlier
  other = _SETTINGS | {'teachers': [['b', 1.0]]}
  other = comparable.without_others(earlier, other).entry
  for result in (other.mean, *other.runs):
    names = {m.metric for m in measures.of(result, _SET)}
    assert 'nll' in names and not {'kl', 'acceptance'} & names
    assert not {'kl', 'acceptance'} & set(result.scores[_SET])
  assert earlier.entry.runs == _benchmark().entries[0].runs
  assert earlier.entry.cost == _cost((1, 16), (4, 16))

  second = str(tmp_path / 'second')
  os.makedirs(second)
  benchmark = _benchmark([earlier])
  drawn = pictures.draw(second, benchmark)
  page.write(second, benchmark, drawn)
  with open(os.path.join(second, record.PAGE), encoding='utf-8') as f:
    text = f.read()
  assert '**Verdict: not distinguishable, compared with earlier: new.**' in text
  assert '3 and 3 seeds' in text and 'all (12)' in text
  assert len(re.findall('batch 4, prompt 16: ', text)) == 2
  assert [f'![{x[:-4]}]({x})' in text for x in drawn] == [True] * 3

  os.remove(os.path.join(first, 'models', 'model_1.json'))
  with pytest.raises(errors.ConfigError, match='missing or damaged'):
    record.read([first], 'benchmark.earlier')
  record.remove(first)
  for folder in (first, second):
    with pytest.raises(errors.ConfigError, match='contains no benchmark.json'):
      record.read([folder], 'benchmark.earlier')
