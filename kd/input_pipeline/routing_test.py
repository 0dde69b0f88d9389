"""Examples are routed to the right teachers, wherever they are packed."""

import json

import numpy as np
import pytest

from kd.core import errors
from kd.data_files import source
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import routing
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import tokenizers

# Each subject's texts consist of one letter.
_SUBJECTS = {'m': 'math', 'c': 'code', 'h': None}


def _write(path, letters):
  """Writes documents, some of them longer than a row."""
  path.write_text(
    ''.join(
      json.dumps({'text': letter * n, 'subject': _SUBJECTS[letter]}) + '\n'
      for letter, n in letters
    )
  )
  return path


def _prepare(tmp_path, *files):
  components = tuple(
    mixtures.Component(x.stem, source.Source(str(x), recorded='subject'))
    for x in files
  )
  return prepare.prepare(
    mixtures.Mixture(components, '', field='subject'),
    'train',
    tokenizer=tokenizers.load('bytes'),
    template='plain',
    length=24,
    pack=True,
    seed=0,
    cache_dir=str(tmp_path / 'rows'),
    limit=-1,
    retry_policy=retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0),
    say=lambda line: None,
  )


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('routes')
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 60, 40).tolist()
  first = _write(folder / 'first.jsonl', zip('mcmh' * 10, lengths, strict=True))
  second = _write(folder / 'second.jsonl', [('m', 5), ('m', 40), ('c', 3)])
  return _prepare(folder, first, second)


def test_positions_are_routed_to_the_teachers_of_their_example(prepared):
  routes = (
    routing.Route('teacher', 3.0),
    routing.Route('teacher.others.math', 1.0, values=('math',)),
    routing.Route('teacher.others.code', 4.0, ('second',), ('code',)),
  )
  assert [r.name for r in routes] == ['teacher', 'math', 'code']
  expected = {
    ('first', 'm'): [0.75, 0.25, 0.0],
    ('first', 'c'): [1.0, 0.0, 0.0],
    ('first', 'h'): [1.0, 0.0, 0.0],
    ('second', 'm'): [0.75, 0.25, 0.0],
    ('second', 'c'): [3 / 7, 0.0, 4 / 7],
  }
  rows = rows_lib.Numbered(prepared)
  batch = rows([*reversed(range(len(rows))), -1])
  seen = set()
  weights = routing.Router(prepared, routes, 'subject')(batch).teacher_weights
  assert (batch.segment_ids.max(axis=1) > 1).any()
  for row_id, targets, counted, found in zip(
    batch.row_id, batch.targets, batch.weights, weights, strict=True
  ):
    task = 'first' if row_id < prepared[1].first_row_id else 'second'
    for token, weight, of_position in zip(targets, counted, found, strict=True):
      # Bytes are tokens, and EOS also belongs to the document.
      letter = tokenizers.load('bytes').decode([token])
      if weight and letter in _SUBJECTS:
        seen.add((task, letter))
        np.testing.assert_allclose(of_position, expected[task, letter], 1e-6)
  assert seen == set(expected)
  assert not weights[-1].any()


def test_routing_by_task_routes_whole_rows(prepared):
  routes = (
    routing.Route('teacher', 1.0, ('second',)),
    routing.Route('teacher.others.b', 1.0, ('first',)),
  )
  batch = rows_lib.Numbered(prepared)([0, prepared[1].first_row_id])
  found = routing.Router(prepared, routes, '')(batch).teacher_weights
  assert (found[0] == [0, 1]).all() and (found[1] == [1, 0]).all()


def test_examples_without_a_teacher_are_refused(prepared):
  one = lambda **more: (routing.Route('teacher', 1.0, **more),)
  for routes, words in (
    (one(tasks=('first',)), "task 'second'"),
    (one(values=('math', 'code')), "task 'first' without 'subject'"),
    (one(values=('math', '')), "task 'first' whose subject is 'code'"),
  ):
    with pytest.raises(errors.ConfigError, match=words):
      routing.Router(prepared, routes, 'subject')
  tasks = [p.task for p in prepared]
  with pytest.raises(errors.ConfigError, match="task 'second'"):
    routing.check_tasks(one(tasks=('first',)), tasks)
  with pytest.raises(errors.ConfigError, match='did you mean .first') as e:
    routing.check_tasks(one(tasks=('frist',)), tasks)
  assert e.value.path == 'teacher.tasks'
  routing.check_tasks(one(values=('math',)), tasks)
