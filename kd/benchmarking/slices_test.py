"""Tests slices of real rows: windows of documents, and fields of files."""

import itertools
import json
import math

import numpy as np
import pytest

from kd.benchmarking import models
from kd.benchmarking import slices
from kd.config import base
from kd.core import errors
from kd.evaluation import results
from kd.input_pipeline import examples
from kd.input_pipeline import mixtures
from kd.input_pipeline import rows as rows_lib
from kd.train import evaluate

_LENGTH, _STRIDE = 24, 10
_TEXTS = ['1+2=3 ' * n for n in (2, 30, 9, 17)]
_TOPICS = ['short', 'long', 'short', 'long']


def _open(tmp_path, **fields):
  texts, chats = tmp_path / 'texts.jsonl', tmp_path / 'chats.jsonl'
  texts.write_text(
    ''.join(
      json.dumps({'text': text, 'topic': topic}) + '\n'
      for text, topic in zip(_TEXTS, _TOPICS, strict=True)
    )
  )
  chats.write_text(
    ''.join(
      json.dumps({'prompt': 'Q', 'completion': '1' * n, 'level': n % 2}) + '\n'
      for n in (1, 2, 3, 90, 5)  # One is longer than a row.
    )
  )
  config = base.get_config()
  with config.unlocked():
    config.data.folder = str(tmp_path / 'rows')
    config.data.length = _LENGTH
    config.benchmark.update(stride=_STRIDE, **fields)
    config.evaluation.sets = {
      name: base.evaluation_set(mixture=str(path), split='train', answers=n)
      for name, path, n in (('texts', texts, 0), ('chats', chats, -1))
    }
  opened = models.open_model(config, 'data/fixtures/quickstart_teacher')
  lines = evaluate.prepare_sets(opened.run, lambda line: None)
  return opened, {x.name: x for x in lines}


def _result(held_out):
  """Returns the rows with their ids as scores, without padding rows."""
  (part,) = held_out.prepared
  numbered = rows_lib.Numbered([part])
  batch = numbered(range(len(numbered)))
  weight = batch.weights.sum(axis=1)
  rng = np.random.default_rng(0)
  columns = {
    'row': batch.row_id.astype(float),
    'weight': weight,
    'nll': weight * rng.uniform(1, 2, len(weight)),
  }
  scores = {held_out.name: {k: v.tolist() for k, v in columns.items()}}
  return batch, results.Result({}, scores, [], {})


def test_rows_and_answers_of_slices(tmp_path):
  opened, held_out = _open(tmp_path, slices=('length', 'topic'))
  batch, result = _result(held_out['texts'])
  whole, *parts = slices.of(opened.run, held_out['texts'], result)
  by_topic = {x.value: x for x in parts if x.field == 'topic'}
  tokenizer = opened.run.tokenizer
  # A window has at least that much context, and each id is scored once.
  counted = batch.weights > 0
  is_first = batch.tokens[:, 1:2] == tokenizer.encode(_TEXTS[0])[0]
  starts = counted.argmax(axis=1)
  assert (starts[~counted[:, 0]] >= _LENGTH - _STRIDE).all()
  assert is_first.any()
  ids = {
    topic: [int(x) for i in part.rows for x in batch.targets[i][counted[i]]]
    for topic, part in by_topic.items()
  }
  for topic, found in ids.items():
    expected = [
      x
      for text, of in zip(_TEXTS, _TOPICS, strict=True)
      for x in (*tokenizer.encode(text), tokenizer.eos_id)
      if of == topic
    ]
    assert found == expected
  assert [*whole.rows] == sorted(
    i for part in by_topic.values() for i in part.rows
  )
  # A length is a document's, not a window's.
  sizes = [len(tokenizer.encode(text)) + 1 for text in _TEXTS]
  ranges = {x.value for x in parts if x.field == 'length'}
  assert ranges == {
    f'{1 << s.bit_length() - 1} to {(1 << s.bit_length()) - 1}' for s in sizes
  }

  chats = held_out['chats']
  with pytest.raises(errors.ConfigError, match="'topic', which no example"):
    slices.check_fields(opened.run, chats)
  opened, held_out = _open(tmp_path, slices=('level',))
  _, result = _result(held_out['chats'])
  whole, even, odd = slices.of(opened.run, held_out['chats'], result)
  assert [*whole.rows] == [0, 1, 2, 3] and [*whole.answers] == [0, 1, 2, 3, 4]
  # The example without a row is answered nevertheless.
  assert (even.title, even.rows, even.answers) == ('level 0', [1], [1, 3])
  assert (odd.title, odd.rows, odd.answers) == ('level 1', [0, 2, 3], [0, 2, 4])


def test_fields_of_a_seqio_task():
  mixture = mixtures.task('arithmetic_few', 'kd.data.mixtures')
  ((task, _),) = examples.tasks(mixture, 'validation')
  read = examples.stream(task, 'validation', mixture.module, -1, print)
  for field in ('inputs', 'targets'):
    read, again = itertools.tee(read)
    expected = {x['id']: x[field] for x in again}
    assert examples.column(task, 'validation', field) == expected
  assert examples.column(task, 'validation', 'topic') == {}


def _student_and_teacher():
  rng = np.random.default_rng(1)
  weight = rng.integers(1, 9, 6).astype(float)

  def model(scale):
    columns = {
      'weight': weight,
      'nll': weight * scale * rng.uniform(0.5, 1, 6),
      'exact_match': rng.integers(0, 2, 6).astype(float),
    }
    metrics = {
      'eval/s/nll': columns['nll'].sum() / weight.sum(),
      'eval/s/exact_match': columns['exact_match'].mean(),
    }
    columns = {k: v.tolist() for k, v in columns.items()}
    return results.Result(metrics, {'s': columns}, [], {})

  return weight, model(2.0), model(1.0)


def test_retention_of_a_slice():
  weight, student, teacher = _student_and_teacher()
  teacher.scores['s']['exact_match'] = [1.0, 1.0, 0.0, 1.0, 0.0, None]
  part = slices.Slice('f', 'v', rows=[0, 2, 5], answers=[0, 1, 2, 5])
  nll, exact = slices.compared(student, 's')
  assert (nll.metric, exact.metric) == ('nll', 'exact_match')
  share = slices.retained(student, teacher, 's', nll, part)
  mean = lambda x: (
    sum(x.scores['s']['nll'][i] for i in part.rows) / sum(weight[part.rows])
  )
  expected = math.exp(mean(teacher)) / math.exp(mean(student))
  assert share.value == pytest.approx(expected)
  assert share.low < share.value < share.high
  share = slices.retained(student, teacher, 's', exact, part)
  own = student.scores['s']['exact_match'][:3]
  assert share.value == pytest.approx(sum(own) / 2)
  nothing = slices.Slice('f', 'v', rows=[1], answers=[2])
  assert slices.retained(student, teacher, 's', exact, nothing) is None
