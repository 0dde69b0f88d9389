"""Tasks declared with plain Python functions."""

import pytest

from kd.core import errors
from kd.input_pipeline import examples
from kd.input_pipeline import skipping
from kd.input_pipeline import text_tasks

_ROWS = [
  {'id': 'a', 'inputs': '1+1=? ', 'rationale': '1+1=2.', 'targets': '1+1=2. 2'},
  {'id': 'b', 'inputs': 'caf\u00e9 ', 'rationale': '', 'targets': '\U0001f600'},
]


@pytest.fixture
def added():
  import seqio

  names = []

  def add(name, examples, **more):
    text_tasks.add(name, examples, splits=('train', 'test'), **more)
    names.append(name)
    return seqio.TaskRegistry.get(name)

  yield add
  for name in names:
    seqio.TaskRegistry.remove(name)


def _read(task, split='train'):
  dataset = task.get_dataset(split=split, shuffle=False)
  return [
    {key: value.decode('utf-8') for key, value in example.items()}
    for example in dataset.as_numpy_iterator()
  ]


def test_seqio_reads_the_examples_and_scores_answers(added):
  metric = lambda targets, predictions: {'same': targets == predictions}
  task = added(
    'plain',
    lambda split: _ROWS if split == 'train' else [],
    postprocess=lambda text, example, is_target: text.strip(),
    metrics=[metric],
  )
  assert _read(task) == _ROWS and _read(task, 'test') == []
  assert set(task.splits) == {'train', 'test'}
  assert task.predict_metric_fns == [metric]
  assert task.postprocess_fn(' x ', example={}, is_target=True) == 'x'


def test_chats_and_documents_are_examples(added):
  chat = [
    {'role': 'user', 'content': 'hi'},
    {'role': 'assistant', 'content': 'yes', 'weight': 0.5},
  ]
  task = added('chats', lambda split: [{'id': 'a', 'messages': chat}])
  (example,) = examples.stream(task, 'train', '', -1, print)
  assert example == {
    'id': 'a',
    'messages': [chat[0] | {'weight': 0.0}, chat[1]],
  }
  task = added('documents', lambda split: [{'text': 'all'}])
  (example,) = examples.stream(task, 'train', '', -1, print)
  assert example == {'id': 'documents-0', 'text': 'all'}


@pytest.mark.parametrize(
  'row, words',
  [
    ({'inputs': 'a'}, 'example 2: has no targets'),
    ({**_ROWS[0], 'targets': 3}, 'example 2: targets is 3; legal: text'),
    (
      {'inputs': 'a', 'targets': 'b'},
      'example 2: has inputs, targets, but the',
    ),
    (
      {'messages': [{'role': 'user', 'content': 'a'}]},
      'no message to train on',
    ),
    ('a', "example 2: found 'a'; legal: a mapping with inputs, targets"),
  ],
)
def test_invalid_examples_are_refused_by_number(row, words, added):
  task = added('wrong', lambda split: [*_ROWS, row, *_ROWS])
  with pytest.raises(errors.ConfigError, match=words):
    _read(task)
  skipped = skipping.Skipped()
  read = list(examples.stream(task, 'train', '', -1, print, skipped))
  assert read == [*_ROWS, *_ROWS]
  (line,) = skipped.record()['first']
  assert words.partition(': ')[2] in line
