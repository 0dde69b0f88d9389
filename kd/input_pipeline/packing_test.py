"""Packing loses, cuts and mixes nothing."""

import collections

import numpy as np
import pytest

from kd.input_pipeline import packing
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers


def _examples(count, longest, seed):
  rng = np.random.default_rng(seed)
  for i in range(count):
    n = rng.integers(2, longest + 2)
    yield packing.Example(
      rng.integers(3, 99, n).astype(np.int32),
      rng.random(n).astype(np.float32),
      i,
    )


def _recover(row):
  """The examples of a row, from its arrays alone."""
  for segment in range(1, row['segment_ids'].max() + 1):
    at = row['segment_ids'] == segment
    ids = [row['tokens'][at][0], *row['targets'][at]]
    assert list(row['tokens'][at]) == ids[:-1]
    yield tuple(map(int, ids)), tuple(map(float, row['weights'][at]))


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('seed', range(5))
def test_nothing_is_lost(pack, seed):
  examples = list(_examples(200, 40, seed))
  groups, too_long = packing.assign([e.positions for e in examples], 32, pack)
  rows = [
    packing.from_bytes(
      packing.to_bytes(packing.fill([examples[i] for i in group], 32, 0))
    )
    for group in groups
  ]
  kept = [e for e in examples if len(e.ids) <= 33]
  assert [examples[i] for i in too_long] == [
    e for e in examples if len(e.ids) > 33
  ]
  expected = collections.Counter(
    (tuple(map(int, e.ids)), tuple(map(float, e.weights[1:]))) for e in kept
  )
  assert collections.Counter(x for r in rows for x in _recover(r)) == expected
  np.testing.assert_allclose(
    sum(r['weights'].sum(dtype=np.float64) for r in rows),
    sum(e.weights[1:].sum(dtype=np.float64) for e in kept),
    rtol=1e-6,
  )
  for row in rows:
    padding = row['segment_ids'] == 0
    assert not row['weights'][padding].any()
    assert not row['tokens'][padding].any()


def test_first_fit_by_brute_force():
  lengths = np.random.default_rng(0).integers(1, 30, 500).tolist()
  rows, room = [], []
  for i, n in enumerate(lengths):
    row = next((r for r, left in enumerate(room) if left >= n), len(room))
    if row == len(room):
      rows.append([])
      room.append(32)
    rows[row].append(i)
    room[row] -= n
  assert packing.assign(lengths, 32, True) == (rows, [])


def test_positions_restart_and_no_target_crosses_the_seam():
  a = packing.Example(np.array([2, 5, 6, 1]), np.ones(4, np.float32), 0)
  b = packing.Example(np.array([2, 7, 1]), np.ones(3, np.float32), 1)
  row = packing.fill([a, b], 7, 0)
  assert row['positions'].tolist() == [0, 1, 2, 0, 1, 0, 0]
  assert row['segment_ids'].tolist() == [1, 1, 1, 2, 2, 0, 0]
  assert row['tokens'].tolist() == [2, 5, 6, 2, 7, 0, 0]
  assert row['targets'].tolist() == [5, 6, 1, 7, 1, 0, 0]
  assert row['weights'].tolist() == [1, 1, 1, 1, 1, 0, 0]
  with pytest.raises(ValueError, match='do not fit'):
    packing.fill([a, b], 4, 0)


def test_the_limit_counts_positions():
  # L positions hold L + 1 ids, BOS and the end included; one more is left out.
  assert packing.assign([8, 9], 8, True) == ([[0]], [1])
  assert packing.assign([8, 9], 8, False) == ([[0]], [1])


def test_chats_keep_their_answers_in_order():
  tokenizer = tokenizers.load('bytes')
  examples, said = [], ''
  for i in range(3):
    turns = [
      ('user', f'ask {i}'),
      ('assistant', f'yes {i}'),
      ('user', 'and?' * i),
      ('assistant', f'no {i}' * i),
    ]
    messages = [{'role': r, 'content': c} for r, c in turns]
    ids, weights = templates.encode(tokenizer, 'gemma', messages)
    examples.append(packing.Example(np.array(ids), np.array(weights), i))
    said += ''.join(c + '<end_of_turn>' for r, c in turns if r != 'user')
  row = packing.fill(examples, 400, tokenizer.pad_id)
  assert tokenizer.decode(row['targets'][row['weights'] == 1]) == said
