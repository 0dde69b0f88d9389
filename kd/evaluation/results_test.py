"""Tests the files of an evaluation."""

import json

import pytest

from kd.evaluation import results
from kd.metrics import metric

RESULT = results.Result(
  metrics={'eval/a/nll': 1.25},
  scores={'a': {'nll': [0.5, 0.75], 'exact_match': [1.0, None]}},
  answers=[{'set': 'a', 'id': 'x', 'answer': 'line\nline \u2028 \u20ac'}],
  descriptions={'a': {'exact_match': metric.Description('right', '%')}},
)


def test_files_are_read_back_and_lines_are_json(tmp_path):
  path = tmp_path / 'evaluations' / 'step_3.json'
  results.write(str(path), RESULT, {'date': 'today'})
  assert results.read(str(path)) == ({'date': 'today'}, RESULT)
  lines = path.with_name('step_3.answers.jsonl').read_text().split('\n')
  assert [json.loads(line) for line in lines[:-1]] == RESULT.answers


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_nonfinite_metrics_of_tasks_are_read_back(value, tmp_path):
  path = tmp_path / 'step_3.json'
  written = results.Result(
    {'eval/a/correlation': float(value)},
    {'a': {'correlation': [float(value), None, 0.5]}},
    [],
    {},
  )
  results.write(str(path), written)
  json.loads(path.read_text(), parse_constant=pytest.fail)
  assert repr(results.read(str(path))) == repr(({}, written))


@pytest.mark.parametrize(
  'text', ['', '{"metrics": ', '[]', '7', '{"metrics": {}}']
)
def test_damaged_files_are_read_as_none(text, tmp_path):
  path = tmp_path / 'step_3.json'
  results.write(str(path), RESULT)
  path.write_text(text)
  assert results.read(str(path)) is None
  assert results.read(str(tmp_path / 'missing.json')) is None
