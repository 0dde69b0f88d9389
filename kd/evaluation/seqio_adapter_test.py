"""Tests scores of real seqio tasks; truncated answers are not wrong ones."""

import itertools

import numpy as np
import pytest

from kd.core import errors
from kd.evaluation import seqio_adapter
from kd.input_pipeline import mixtures
from kd.metrics import metric
from kd.sampling import requests

MODULE = 'kd.data.mixtures'
TASK = 'arithmetic_cot'

EXAMPLES = [
  {'inputs': 'Q', 'targets': target, 'id': str(i)}
  for i, target in enumerate(
    ['1+2=3 #### 3', b'#### -4', '#### 1,000', '#### 7', '#### 8']
  )
]
# Right; right; wrong; cut off before its answer; nothing generated.
TEXTS = ['2+1=3 #### 3.', '#### \u22124', '#### 100', '3+', '']
ENDS = ['stop', 'stop', 'stop', 'length', 'too_long']


def _samples(texts, ends=None):
  ends = ends or ['stop'] * len(texts)
  return [
    requests.Sample((5,), (0.0,), text, end)
    for text, end in zip(texts, ends, strict=True)
  ]


def _score(*answered):
  return seqio_adapter.score(
    [seqio_adapter.Answered(*a) for a in answered], mixtures.task(TASK, MODULE)
  )


def test_scores_and_shares():
  scores = _score((TASK, EXAMPLES, _samples(TEXTS, ENDS)))
  assert scores.pooled == {
    'exact_match': 2 / 5,
    'unparsed': 2.0,
    'many_markers': 0.0,
    'truncated': 1 / 5,
    'too_long': 1 / 5,
  }
  assert scores.by_task == {TASK: scores.pooled}
  assert scores.by_example['exact_match'] == [1, 1, 0, 0, 0]
  assert scores.by_example['unparsed'] == [0, 0, 0, 1, 1]


def test_a_mixture_is_pooled_over_examples_and_counts_are_added():
  """Two right examples of one task, eight wrong ones of another: 2 of 10."""
  few = [{'targets': f'#### {i}', 'id': str(i)} for i in range(2)]
  many = [{'targets': f'#### {i}', 'id': str(i)} for i in range(8)]
  scores = _score(
    (TASK, few, _samples([x['targets'] for x in few])),
    ('arithmetic_answer', many, _samples(['nothing'] * 8, ['length'] * 8)),
  )
  assert scores.pooled['exact_match'] == pytest.approx(0.2)
  assert scores.pooled['unparsed'] == 8
  assert scores.pooled['truncated'] == pytest.approx(0.8)
  assert scores.by_task[TASK]['exact_match'] == 1
  assert scores.by_task['arithmetic_answer']['unparsed'] == 8
  assert scores.by_example['exact_match'] == [1, 1] + [0] * 8


@pytest.fixture
def tasks():
  """Tasks with metrics of other kinds, by name."""
  import seqio

  def add(name, *metric_fns, postprocess_fn=None):
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(lambda split, shuffle_files: None, []),
      output_features={},
      metric_fns=list(metric_fns),
      preprocessors=[],
      postprocess_fn=postprocess_fn,
    )
    added.append(name)
    return name

  added = []
  yield add
  for name in added:
    seqio.TaskRegistry.remove(name)


def _lengths(targets, predictions):
  del targets
  return {'length': np.mean([len(p) for p in predictions])}


def _longest(targets, predictions):
  del targets
  return {'length': float(max(len(p) for p in predictions))}


def _spread(targets, predictions):
  """Not a mean: it follows neither from single examples nor from tasks."""
  import seqio

  if len(targets) < 2:
    raise ValueError('two examples at least')
  value = np.std([len(p) for p in predictions])
  return {'spread': seqio.metrics.Scalar(value), 'text': 'for a person'}


def _own(by_example):
  """Returns the metrics of tasks, without those that every task has."""
  ends = ('truncated', 'too_long')
  return {k: x for k, x in by_example.items() if k not in ends}


def _errors_per_word(targets, predictions):
  """Word error rate: the weight of an example is its number of words."""
  wrong, weights = [], []
  for target, prediction in zip(targets, predictions, strict=True):
    words, said = target.split(), prediction.split()
    pairs = itertools.zip_longest(words, said)
    wrong.append(sum(a != b for a, b in pairs) / len(words))
    weights.append(len(words))
  about = dict(title='word errors', unit='%', higher_is_better=False)
  return {'word_errors': metric.Metric(wrong, weights, **about)}


def test_metrics_may_return_values_weights_and_direction(tasks):
  """Never computed from single examples; pooled with its weights."""
  other = lambda targets, predictions: _errors_per_word(targets, predictions)
  texts = [('a b c d', 'a b x d'), ('e', 'y'), ('f g', 'f g')]
  examples = [{'targets': t, 'id': str(i)} for i, (t, _) in enumerate(texts)]
  samples = _samples([p for _, p in texts])
  for number, second in enumerate((_errors_per_word, other)):
    left, bare, right = (f'{x}{number}' for x in ('left', 'bare', 'right'))
    scores = _score(
      (tasks(left, _errors_per_word), examples[:2], samples[:2]),
      (tasks(bare, _spread), examples[1:], samples[1:]),
      (tasks(right, second), examples[2:], samples[2:]),
    )
    assert scores.pooled['word_errors'] == pytest.approx(2 / 7)
    assert scores.by_task[left]['word_errors'] == pytest.approx(2 / 5)
    own = _own(scores.by_example)
    assert own['word_errors'] == [0.25, 1, None, None, 0]
    assert own['word_errors:weight'] == [4, 1, 1, 1, 2]
    assert not scores.descriptions['word_errors'].higher_is_better


def test_metrics_with_a_missing_value_are_refused(tasks):
  name = tasks('few', lambda targets, predictions: {'x': metric.Metric([1.0])})
  with pytest.raises(
    errors.ConfigError, match="'x' of task 'few' has 1 values"
  ):
    _score((name, EXAMPLES, _samples(TEXTS)))


def test_metrics_of_any_kind_are_pooled_by_their_own_function(tasks):
  one, two = tasks('one', _lengths, _spread), tasks('two', _spread)
  examples = [{'targets': '', 'id': str(i)} for i in range(2)]
  scores = _score(
    (one, examples, _samples(['a', 'aaa'])),
    (two, examples, _samples(['aaaaa', 'aaaaaaa'])),
  )
  assert scores.pooled['spread'] == pytest.approx(np.std([1, 3, 5, 7]))
  assert scores.by_task['two']['spread'] == 1
  assert scores.pooled['length'] == 2  # From the only task with this metric.
  assert _own(scores.by_example) == {'length': [1, 3, None, None]}


def test_metric_functions_receive_all_examples_once(tasks):
  calls = []

  def count(targets, predictions):
    calls.append(len(targets))
    return {'count': float(len(predictions))}

  part = lambda name, n: (
    name,
    [{'targets': '', 'id': str(i)} for i in range(n)],
    _samples(['a'] * n),
  )
  _score(part(tasks('alone', count), 3))
  assert calls == [3, 1, 1, 1]
  calls.clear()
  # Two tasks with one function: each, each example, and both together.
  _score(part(tasks('left', count), 2), part(tasks('right', count), 3))
  assert sorted(calls) == [1, 1, 1, 1, 1, 2, 3, 5]


def test_one_name_from_two_functions(tasks):
  """Means are pooled by example; anything but means and counts is not."""
  same = lambda targets, predictions: _lengths(targets, predictions)
  examples = [{'targets': '', 'id': str(i)} for i in range(2)]
  first = tasks('first', _lengths), examples, _samples(['a', 'aaa'])
  more = examples + examples, _samples(['aaaaa'] * 4)
  scores = _score(first, (tasks('mean', same), *more))
  assert scores.pooled['length'] == pytest.approx(24 / 6)
  more = examples, _samples(['a', 'aaaaa'])
  scores = _score(first, (tasks('longest', _longest), *more))
  assert 'length' not in scores.pooled
  assert scores.by_task['longest']['length'] == 5


def test_errors_of_metric_functions_name_the_example():
  examples = [{'targets': '#### 3', 'id': 'a'}, {'targets': 'about', 'id': 'b'}]
  with pytest.raises(errors.ConfigError, match=f"'{TASK}'.*example 'b'.*no nu"):
    _score((TASK, examples, _samples(['#### 3'] * 2)))


def test_wrong_names_and_numbers():
  samples = _samples(TEXTS)
  with pytest.raises(errors.ConfigError, match="'arithmetic_cott'.*_cot'"):
    _score(('arithmetic_cott', EXAMPLES, samples))
  answered = [seqio_adapter.Answered(TASK, EXAMPLES, samples)]
  with pytest.raises(errors.ConfigError, match="module 'data.mixtrues'"):
    seqio_adapter.score(answered, mixtures.task(TASK, 'data.mixtrues'))
  with pytest.raises(ValueError, match='must be equal'):
    _score((TASK, EXAMPLES, samples[:-1]))
  with pytest.raises(ValueError, match='must be equal'):
    _score((TASK, [], []))


def test_errors_of_postprocessors_name_the_example(tasks):
  def post(text, example, is_target):
    del example, is_target
    return int(text)

  name = tasks('counts', _lengths, postprocess_fn=post)
  examples = [{'targets': '1', 'id': 'a'}, {'targets': 'one', 'id': 'b'}]
  with pytest.raises(errors.ConfigError, match="'counts'.*'b': ValueError"):
    _score((name, examples, _samples(['1', '2'])))
