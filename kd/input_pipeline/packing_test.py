"""Packing does not lose, cut or mix examples."""

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
      rng.integers(0, 2, n).astype(np.int32),
      rng.random(n).astype(np.float32),
      i,
    )


def _recover(row):
  """Yields the examples of a row, based only on its arrays."""
  for segment in range(1, row['segment_ids'].max() + 1):
    at = row['segment_ids'] == segment
    ids = [row['tokens'][at][0], *row['targets'][at]]
    assert list(row['tokens'][at]) == ids[:-1]
    yield _plain(ids, row['parts'][at], row['weights'][at])


def _plain(ids, parts, weights):
  return (
    tuple(map(int, ids)),
    tuple(map(int, parts)),
    tuple(map(float, weights)),
  )


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('seed', range(5))
def test_packing_keeps_all_tokens(pack, seed):
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
    _plain(e.ids, e.parts[1:], e.weights[1:]) for e in kept
  )
  assert collections.Counter(x for r in rows for x in _recover(r)) == expected
  np.testing.assert_allclose(
    sum(r['weights'].sum(dtype=np.float64) for r in rows),
    sum(e.weights[1:].sum(dtype=np.float64) for e in kept),
    rtol=1e-6,
  )
  for row in rows:
    padding = row['segment_ids'] == 0
    for name in packing.FIELDS:
      assert not row[name][padding].any()


@pytest.mark.parametrize('most_images', [0, 3])
def test_packing_equals_brute_force_first_fit(most_images):
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 30, 500).tolist()
  images = rng.integers(0, most_images, 500, endpoint=True).tolist()
  rows, room = [], []
  for i, (n, m) in enumerate(zip(lengths, images, strict=True)):
    row = next(
      (r for r, (x, y) in enumerate(room) if x >= n and y >= m), len(room)
    )
    if row == len(room):
      rows.append([])
      room.append((32, most_images))
    rows[row].append(i)
    room[row] = room[row][0] - n, room[row][1] - m
  found = packing.assign(lengths, 32, True, images, most_images)
  assert found == (rows, [])


def test_positions_restart_and_no_target_crosses_segments():
  ones = np.ones(4, np.int32)
  a = packing.Example(np.array([2, 5, 6, 1]), ones, ones, 0)
  b = packing.Example(np.array([2, 7, 1]), 0 * ones[:3], ones[:3], 1)
  row = packing.fill([a, b], 7, 0)
  assert row['positions'].tolist() == [0, 1, 2, 0, 1, 0, 0]
  assert row['segment_ids'].tolist() == [1, 1, 1, 2, 2, 0, 0]
  assert row['tokens'].tolist() == [2, 5, 6, 2, 7, 0, 0]
  assert row['targets'].tolist() == [5, 6, 1, 7, 1, 0, 0]
  assert row['parts'].tolist() == [1, 1, 1, 0, 0, 0, 0]
  assert row['weights'].tolist() == [1, 1, 1, 1, 1, 0, 0]
  with pytest.raises(ValueError, match='do not fit'):
    packing.fill([a, b], 4, 0)


def test_the_limit_counts_positions():
  # L positions hold L + 1 ids, including BOS and EOS; a longer one is dropped.
  assert packing.assign([8, 9], 8, True) == ([[0]], [1])
  assert packing.assign([8, 9], 8, False) == ([[0]], [1])


def test_chats_keep_their_answers_in_order():
  tokenizer = tokenizers.load('bytes')
  examples, said, worked = [], '', ''
  for i in range(3):
    turns = [
      ('user', f'ask {i}', ''),
      ('assistant', f'as {i}, yes', f'as {i}' * (i != 1)),
      ('user', 'and?' * i, ''),
      ('assistant', f'no {i}' * i, 'no' * (i == 2)),
    ]
    messages = [{'role': r, 'content': c, 'rationale': w} for r, c, w in turns]
    columns = templates.encode(tokenizer, 'gemma', messages)
    examples.append(packing.Example(*map(np.array, columns), i))
    said += ''.join(c + '<end_of_turn>' for r, c, _ in turns if r != 'user')
    worked += ''.join(w for _, _, w in turns)
  row = packing.fill(examples, 400, tokenizer.pad_id)
  assert tokenizer.decode(row['targets'][row['weights'] == 1]) == said
  assert tokenizer.decode(row['targets'][row['parts'] == 1]) == worked
  assert worked == 'as 0as 2no'
