"""Reports of recorded evaluations."""

import json
import os
import types

import numpy as np
import pytest

from kd.config import base
from kd.evaluation import measures
from kd.evaluation import results
from kd.metrics import metric
from kd.train import early_stop
from kd.train import report

# Legal names that would break formulas, tables or paths.
_SET = r'$x^ \frac{ |_%'


_DESCRIPTIONS = {
  'exact_match': metric.Description('exact match'),
  'unparsed': metric.Description(
    'answers without a number', 'count', total=True, diagnostic=True
  ),
  'too_long': metric.Description(
    'prompts too long', 'fraction', diagnostic=True
  ),
}


def _result(seed, right, tasks=('one', 'two')):
  """Returns results of ten examples; `right` answers per task are right."""
  rng = np.random.default_rng(seed)
  weight = rng.integers(5, 20, 10).astype(float)
  nll = weight * rng.uniform(0.5, 1.5, 10)
  exact = [float(i % 5 < right) for i in range(10)]
  name = lambda metric: f'eval/{_SET}/{metric}'
  return results.Result(
    metrics={
      name('nll'): nll.sum() / weight.sum(),
      name('perplexity'): float(np.exp(nll.sum() / weight.sum())),
      name('exact_match'): float(np.mean(exact)),
      name('unparsed'): 3.0,
      name('too_long'): 0.0,
      **{name(f'{task}/exact_match'): right / 5 for task in tasks},
    },
    scores={
      _SET: {
        'weight': weight.tolist(),
        'nll': nll.tolist(),
        'exact_match': exact,
        'unparsed': [0.0] * 7 + [1.0] * 3,
      }
    },
    answers=[
      {
        'set': _SET,
        'task': tasks[i // 5],
        'id': str(i),
        'prompt': f'Q{i}',
        'reference': 'R',
        'answer': f'{i} $x^',
        'verdict': 'right' if exact[i] else 'wrong',
        'finish': 'stop',
        'tokens': 3,
      }
      for i in range(10)
    ],
    descriptions={_SET: _DESCRIPTIONS},
  )


@pytest.fixture
def workdir(tmp_path):
  for folder, name, result in (
    ('', 'teacher', _result(1, 5)),
    ('', 'step_0', _result(2, 0)),
    ('', 'step_4', _result(3, 3)),
    ('', 'step_8', _result(4, 4)),
    ('baseline', 'step_8', _result(5, 1)),
  ):
    path = tmp_path / folder / 'evaluations' / f'{name}.json'
    results.write(str(path), result)
  (tmp_path / 'checkpoints').mkdir()
  return tmp_path


def test_table_and_metrics_have_equal_numbers(workdir):
  config = base.get_config()
  config.steps = 8
  config.evaluation.baseline = True
  config.evaluation.sets = {_SET: base.evaluation_set(answers=-1)}
  text = report.write(
    types.SimpleNamespace(config=config, teacher=None),
    str(workdir),
    {
      'student': early_stop.End(8, 'it no longer improved'),
      'baseline': early_stop.End(8, ''),
    },
  )
  markdown = (workdir / 'report.md').read_text()
  rows = {
    cells[1].strip(): [x.split()[0] for x in cells[2:-1]]
    for cells in (
      line.replace(r'\|', '').split('|')
      for line in markdown.splitlines()
      if line.startswith('| ')
    )
    if cells[2].strip() and '---' not in cells[1]
  }
  assert rows['exact match'] == ['1.0000', '0.0000', '0.8000', '0.2000']
  assert rows['exact match: two'] == ['1.0000', '0.0000', '0.8000', '0.2000']
  assert rows['answers without a number, count'] == ['3.0000'] * 4
  assert 'prompts too long, fraction' not in rows
  # The answers of all four models to the same prompt.
  assert 'cross-entropy alone: wrong' in markdown and 'prompt' in markdown
  assert 'Best checkpoint (lowest eval/' in text
  picture = (workdir / 'curves.png').read_bytes()
  assert picture.startswith(b'\x89PNG') and len(picture) > 10_000
  assert sorted(os.listdir(workdir)) == sorted(
    ['baseline', 'checkpoints', 'curves.png', 'evaluations', 'report.md']
  )


def test_intervals_contain_the_value_and_counts_have_none():
  result = _result(4, 4)
  values = {
    m.metric: measures.value(result, _SET, m) for m in measures.of(result, _SET)
  }
  for name in ('nll', 'perplexity', 'exact_match'):
    interval = values[name]
    assert interval.value == pytest.approx(
      result.metrics[f'eval/{_SET}/{name}']
    )
    assert interval.low < interval.value < interval.high
  assert values['unparsed'] == 3.0
  assert measures.counts(result, _SET) == {
    'examples': 10,
    'target_tokens': round(sum(result.scores[_SET]['weight'])),
    'answers': 10,
    'answer_tokens': 30,
  }
  assert json.dumps(result.metrics)
