"""Shared outcomes of two tokenizers, and positions where both begin a token."""

import numpy as np
import pytest

from kd.core import types
from kd.input_pipeline import packing
from kd.input_pipeline import retokenizing
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import shared_vocabularies
from kd.input_pipeline import teacher_rows
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from kd.input_pipeline import trained_models

_CHAT = [
  {'role': 'user', 'content': 'What is 12345 + 678?'},
  {'role': 'assistant', 'content': 'It   is 13023 \u4f60\U0001f600 now.'},
]


@pytest.fixture(name='pair', scope='module')
def _pair(tmp_path_factory):
  model = trained_models.train(**trained_models.GEMMA)
  gemma = sentencepiece_tokenizer.SentencePieceTokenizer(model)
  folder = trained_byte_level.write(tmp_path_factory.mktemp('qwen'))
  return gemma, tokenizers.load(folder)


@pytest.mark.parametrize('is_reversed', [False, True])
def test_ids_map_to_the_outcome_they_begin_with(pair, is_reversed):
  own, other = pair[::-1] if is_reversed else pair
  names = ('qwen3', 'gemma') if is_reversed else ('gemma', 'qwen3')
  convert = retokenizing.Retokenizer(own, names[0], other, names[1])
  shared = shared_vocabularies.match(own, other, convert.roles)
  assert not shared.is_same
  roles = convert.roles
  assert roles[own.eos_id] == other.eos_id and len(roles) >= 3
  for side, a, b, special in (
    (shared.student, own, other, [*roles]),
    (shared.teacher, other, own, [*roles.values()]),
  ):
    # Each id has one outcome.
    whole = np.concatenate([side.ids, side.others])
    np.testing.assert_array_equal(np.sort(whole), np.arange(a.vocab_size))
    assert side.size == a.vocab_size
    theirs = shared.teacher.ids if a is own else shared.student.ids
    count = len(side.ids)
    for index, there in zip(side.ids, theirs, strict=True):
      if index not in special:
        assert a.bytes_of(int(index)) == b.bytes_of(int(there))
    joins = 0
    for index, outcome in zip(side.others, side.joined, strict=True):
      if outcome < count:
        text = a.bytes_of(int(index))
        first = b.bytes_of(int(theirs[outcome]))
        assert text.startswith(first) and text != b''
        joins += 1
    assert joins > 10
  assert shared_vocabularies.match(own, own, {}).is_same


def test_positions_are_paired_at_common_token_starts(pair):
  own, other = pair
  convert = retokenizing.Retokenizer(own, 'plain', other, 'plain')
  ids, parts, weights = templates.encode(own, 'plain', _CHAT)
  example = packing.Example(ids, parts, weights, 0)
  row = packing.fill([example, example], 2 * len(ids), own.pad_id)
  batch = types.Batch(
    **{k: v[None] for k, v in row.items()}, row_id=np.zeros(1, np.int32)
  )
  rows = teacher_rows.TeacherRows(convert, 256, other.pad_id, by_position=True)
  teacher = rows(batch).teacher
  assert teacher.spans is None and teacher.student_spans is None
  places, count = teacher.indices[0], len(ids) - 1
  length = len(convert(ids).ids) - 1
  np.testing.assert_array_equal(
    places[count : 2 * count],
    np.where(places[:count] < 0, -1, places[:count] + length),
  )
  # Compared by the bytes read so far; BOS and EOS have none.
  read = lambda t, tokens: np.cumsum(
    [
      len(t.bytes_of(int(i)) or b'') if i not in (t.bos_id, t.eos_id) else 0
      for i in tokens
    ]
  )
  theirs = read(other, teacher.tokens[0, :length]).tolist()
  paired = 0
  for at, end in enumerate(read(own, ids[:-1])):
    if end in theirs:
      assert places[at] == theirs.index(end), at
      paired += 1
    else:
      assert places[at] == -1
  assert 10 < paired < count
  assert (places[2 * count :] == -1).all()


def test_equal_tokenizers_pair_every_position(pair):
  own, _ = pair
  convert = retokenizing.Retokenizer(own, 'gemma', own, 'gemma')
  ids, parts, weights = templates.encode(own, 'gemma', _CHAT)
  row = packing.fill(
    [packing.Example(ids, parts, weights, 0)], 64 + len(ids), own.pad_id
  )
  batch = types.Batch(
    **{k: v[None] for k, v in row.items()}, row_id=np.zeros(1, np.int32)
  )
  rows = teacher_rows.TeacherRows(convert, 256, own.pad_id, by_position=True)
  count = len(ids) - 1
  places = rows(batch).teacher.indices[0]
  np.testing.assert_array_equal(places[:count], np.arange(count))
