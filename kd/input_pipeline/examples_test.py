"""Rationales of tasks, from examples to rows; errors name the example."""

import os

import pytest

from kd.core import errors
from kd.core import types
from kd.input_pipeline import examples
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import skipping
from kd.input_pipeline import tokenizers

# (inputs, rationale, answer): a blank at the seam, characters of 2 to 4 bytes
# on both sides of it, no rationale, only a rationale.
_WORKED = [
  ('2+2, twice? ', '2+2=4 4+4=8', ' #### 8'),
  (
    '\u4f60 + \U0001f600? ',
    '\u00e9\u4f60\U0001f600',
    '\U0001f600\n#### \u4f60',
  ),
  ('Only the answer: ', '', '#### 7'),
  ('Only the steps: ', '1+1=2', ''),
]

_MODULE = """
import seqio
import tensorflow as tf

COLUMNS = {columns!r}

def source(split, shuffle_files):
  return tf.data.Dataset.from_tensor_slices(COLUMNS)

feature = seqio.Feature(
  seqio.PassThroughVocabulary(size=0), add_eos=False, rank=0, dtype=tf.string
)
seqio.TaskRegistry.add(
  {name!r},
  source=seqio.FunctionDataSource(source, splits=['train']),
  output_features={{
    field: feature for field in ('inputs', 'targets') if field in COLUMNS
  }},
)
"""


@pytest.fixture
def declare(tmp_path, monkeypatch):
  """Declares a task with the given columns; returns (task, module)."""
  monkeypatch.syspath_prepend(tmp_path)

  def write(name, **columns):
    text = _MODULE.format(name=name, columns=columns)
    (tmp_path / f'{name}_module.py').write_text(text)
    return {'mixture': mixtures.task(name, f'{name}_module')}

  return write


def _prepare(folder, template, length, **task):
  (part,) = prepare.prepare(
    split='train',
    tokenizer=tokenizers.load('bytes'),
    template=template,
    length=length,
    pack=True,
    seed=0,
    cache_dir=str(folder),
    limit=-1,
    retry_policy=retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0),
    say=lambda line: None,
    **task,
  )
  return part


def _segments(part):
  """Yields each example's positions, rationale text and remaining text."""
  tokenizer = tokenizers.load('bytes')
  for batch in rows_lib.batches([part], 1, [0]):
    assert not batch.parts[batch.weights == 0].any()
    for segment in range(1, batch.segment_ids.max() + 1):
      at = (batch.segment_ids == segment) & (batch.weights > 0)
      worked = at & (batch.parts == types.RATIONALE)
      yield (
        batch.positions[batch.segment_ids == segment].tolist(),
        tokenizer.decode(batch.targets[worked]),
        tokenizer.decode(batch.targets[at & (batch.parts == types.ANSWER)]),
      )


@pytest.mark.parametrize('template', ['plain', 'gemma'])
def test_packed_rows_separate_rationale_and_answer(template, declare, tmp_path):
  worked = [(q + str(i), r, a) for i in range(9) for q, r, a in _WORKED]
  task = declare(
    f'worked_{template}',
    inputs=[q for q, _, _ in worked],
    targets=[r + a for _, r, a in worked],
    rationale=[r for _, r, _ in worked],
  )
  part = _prepare(tmp_path, template, 300, **task)
  end = '<end_of_turn>' if template == 'gemma' else ''
  found = list(_segments(part))
  assert sorted(f[1:] for f in found) == sorted(
    (r, a + end) for _, r, a in worked
  )
  assert part.counts['rows'] < len(worked) / 2
  for positions, _, _ in found:
    assert positions == list(range(len(positions)))
  assert part.counts['rationale_weight'] == sum(
    len(r.encode()) for _, r, _ in worked
  )
  assert [e['rationale'] for e in part.examples()] == [r for _, r, _ in worked]


def test_rationales_are_optional(declare, tmp_path):
  task = declare('unnamed', inputs=['a ', 'b '], targets=['1', '22'])
  part = _prepare(tmp_path, 'plain', 100, **task)
  assert sorted(f[1:] for f in _segments(part)) == [('', '1'), ('', '22')]
  assert part.counts['rationale_weight'] == 0
  assert [e['rationale'] for e in part.examples()] == ['', '']


@pytest.mark.parametrize(
  'name, columns, message',
  [
    (
      'elsewhere',
      {
        'inputs': ['?', '?'],
        'targets': ['so 1', 'so 2'],
        'rationale': ['so', 'as'],
      },
      "data.mixture: task 'elsewhere', split 'train', example 'elsewhere-1': "
      "the targets, 'so 2', do not begin with the rationale, 'as'",
    ),
    (
      'longer',
      {
        'id': ['x'],
        'inputs': ['?'],
        'targets': ['so'],
        'rationale': ['so 1'],
      },
      "task 'longer', split 'train', example 'x': the targets",
    ),
    (
      'numbers',
      {'inputs': ['?'], 'targets': ['so'], 'rationale': [1]},
      "split 'train', example 'numbers-0': feature 'rationale' is int",
    ),
    (
      'unweighted',
      {
        'inputs': ['?'],
        'targets': ['so'],
        'messages': ['[{"role": "user", "content": "?"}]'],
      },
      "example 'unweighted-0': has no message to train on",
    ),
    (
      'promptless',
      {'targets': ['so']},
      "example 'promptless-0' has no feature 'inputs'",
    ),
  ],
)
def test_wrong_examples_are_named(name, columns, message, declare, tmp_path):
  task = declare(name, **columns)
  with pytest.raises(errors.ConfigError, match=message):
    _prepare(tmp_path / 'rows', 'plain', 100, **task)
  assert not os.listdir(tmp_path / 'rows')


def test_skipping_continues_to_the_first_good_examples(declare):
  found = {}
  for name, targets in (('last_good', ['so', '1', '2']), ('none_good', ['so'])):
    count = len(targets)
    task = declare(
      name, inputs=['?'] * count, targets=targets, rationale=['1'] * count
    )['mixture']
    ((found[name], _),) = examples.tasks(task, 'train')
  read = lambda name: list(
    examples.stream(
      found[name], 'train', f'{name}_module', 1, print, skipping.Skipped()
    )
  )
  assert [e['id'] for e in read('last_good')] == ['last_good-1']
  with pytest.raises(errors.ConfigError, match="1 invalid .*'none_good-0'"):
    read('none_good')
