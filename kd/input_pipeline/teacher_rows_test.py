"""A teacher's rows: its ids of the same text, and the spans that count."""

import numpy as np
import pytest

from kd.core import errors
from kd.core import types
from kd.input_pipeline import encoding
from kd.input_pipeline import packing
from kd.input_pipeline import retokenizing
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import teacher_rows
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from kd.input_pipeline import trained_models

_ASKED = {'role': 'user', 'content': 'What is 12345 + 678?'}
_SAID = {'role': 'assistant', 'content': 'It is 13023 \u4f60\U0001f600.'}
_CHATS = ([_ASKED, _SAID], [_ASKED, _SAID, _ASKED, _SAID])


@pytest.fixture(scope='module')
def gemma():
  model = trained_models.train(**trained_models.GEMMA)
  return sentencepiece_tokenizer.SentencePieceTokenizer(model)


@pytest.fixture(scope='module')
def qwen(tmp_path_factory):
  folder = trained_byte_level.write(tmp_path_factory.mktemp('qwen'))
  return tokenizers.load(folder)


def _targets_by_span(text, own, teacher, ids):
  """Returns the bytes of each span in both tokenizations."""
  spans = {}
  for tokenizer, all_ids, numbers, side in (
    (own, ids, text.student_spans, 0),
    (teacher, text.ids, text.spans, 1),
  ):
    for index, number in zip(all_ids, numbers, strict=True):
      if number != retokenizing.NO_SPAN:
        pair = spans.setdefault(number, [b'', b''])
        pair[side] += tokenizer.bytes_of(int(index)) or b''
  return spans


@pytest.mark.parametrize(
  ('names', 'is_reversed'),
  [
    (('gemma', 'qwen3_no_thinking'), False),
    (('plain', 'plain'), False),
    (('qwen3_no_thinking', 'gemma'), True),
    (('gemma', 'qwen3'), False),
  ],
)
def test_ids_follow_the_teachers_own_template(gemma, qwen, names, is_reversed):
  own, teacher = (qwen, gemma) if is_reversed else (gemma, qwen)
  convert = retokenizing.Retokenizer(own, names[0], teacher, names[1])
  for chat in _CHATS[: 1 if names[0] == 'plain' else 2]:
    ids, _, _ = templates.encode(own, names[0], chat)
    text = convert(ids)
    expected, _, weights = templates.encode(teacher, names[1], chat)
    assert text.ids.tolist() == expected.tolist()
    assert len(text.student_spans) == len(ids)
    # The model's answer and the mark after it are in spans.
    assert (text.spans[weights > 0] != retokenizing.NO_SPAN).all()
    pairs = _targets_by_span(text, own, teacher, ids)
    said = _SAID['content'].encode()
    assert said in b''.join(b for b, _ in pairs.values())
    # Two marks per turn, and the role of every second turn.
    other = 0 if names[0] == 'plain' else 5 * len(chat) // 2
    assert sum(a != b for a, b in pairs.values()) == other


def test_documents_and_equal_tokenizers(gemma, qwen):
  document = {'id': '1', 'text': 'def f(x):\n    return 100 * x\n'}
  for own, teacher in ((gemma, qwen), (qwen, gemma), (gemma, gemma)):
    ids, expected = (
      encoding.Encoder(t, 'plain', 64).encode(document, 0)[0].ids
      for t in (own, teacher)
    )
    text = retokenizing.Retokenizer(own, 'plain', teacher, 'plain')(ids)
    assert text.ids.tolist() == expected.tolist()
    if own is teacher:
      assert text.spans.tolist() == [-1, *range(len(ids) - 1)]
      assert text.student_spans.tolist() == text.spans.tolist()


def test_unmappable_text_is_in_no_span(gemma, qwen):
  system = {'role': 'system', 'content': 'Be brief.'}
  ids, _, _ = templates.encode(qwen, 'qwen3', [system, *_CHATS[0]])
  assert retokenizing.Retokenizer(qwen, 'qwen3', gemma, 'gemma')(ids) is None
  # Invalid UTF-8, which a student may sample.
  ids = [gemma.bos_id, *gemma.encode('ab'), gemma.encode('\U0001f600')[0], 1]
  text = retokenizing.Retokenizer(gemma, 'plain', qwen, 'plain')(ids)
  assert text.student_spans.tolist() == [-1] * (len(ids) - 1) + [0]
  assert text.spans[-1] == 0 and text.ids[-1] == qwen.eos_id


def test_incompatible_templates_are_refused(gemma, qwen):
  with pytest.raises(errors.ConfigError, match='one has turns'):
    retokenizing.Retokenizer(gemma, 'gemma', qwen, 'plain')
  with pytest.raises(errors.ConfigError, match='teacher.template.*needs'):
    retokenizing.Retokenizer(gemma, 'gemma', qwen, 'gemma')


def _batch(examples, length, pad_id):
  row = packing.fill(examples, length, pad_id)
  return types.Batch(
    **{k: v[None] for k, v in row.items()}, row_id=np.zeros(1, np.int32)
  )


def _example(ids, weights):
  ids = np.array(ids, np.int32)
  return packing.Example(ids, 0 * ids, np.array(weights, np.float32), 0)


def test_spans_cut_by_a_mask_do_not_count(gemma):
  single = tokenizers.load('bytes')
  convert = retokenizing.Retokenizer(single, 'plain', gemma, 'plain')
  words = 'parser argument', 'argument parser'
  ids = [[2, *single.encode(text), 1] for text in words]
  weights = [np.ones(len(x)) for x in ids]
  weights[0][3] = 0  # Inside the first word.
  batch = _batch(
    [_example(*pair) for pair in zip(ids, weights, strict=True)], 40, 0
  )
  pair = teacher_rows.TeacherRows(convert, 24, gemma.pad_id)(batch).teacher
  expected = [[2, *gemma.encode(text), 1] for text in words]
  sizes = [len(x) - 1 for x in expected]
  both = expected[0][1:] + expected[1][1:]
  assert pair.targets[0, : sum(sizes)].tolist() == both
  assert pair.segment_ids[0, : sum(sizes)].tolist() == (
    [1] * sizes[0] + [2] * sizes[1]
  )
  assert pair.positions[0, : sizes[0]].tolist() == list(range(sizes[0]))
  spans, own = pair.spans[0], pair.student_spans[0]
  # Only the token that contains the masked byte is left out.
  width = len(gemma.bytes_of(expected[0][1]))
  assert width > 3 and spans[0] == 0 and (own[:width] == 0).all()
  rest = sum(sizes) - 1
  assert spans[: rest + 1].tolist() == list(range(rest + 1))
  assert sorted(set(own[width : len(batch.weights[0])])) == (
    list(range(rest + 1))
  )
  # In a row that is too short, the second example is left out completely.
  short = teacher_rows.TeacherRows(convert, sizes[0], gemma.pad_id)(batch)
  assert short.teacher.targets[0].tolist() == expected[0][1:]
  left = len(ids[0]) - 1
  assert short.teacher.student_spans[0, :left].tolist() == own[:left].tolist()
  assert not short.teacher.student_spans[0, left:].any()


def test_a_first_token_that_nothing_predicts_does_not_count(qwen):
  single = tokenizers.load('bytes')
  convert = retokenizing.Retokenizer(single, 'plain', qwen, 'plain')
  ids = [2, *single.encode('parser argument'), 1]
  batch = _batch([_example(ids, np.ones(len(ids)))], 20, 0)
  pair = teacher_rows.TeacherRows(convert, 20, qwen.pad_id)(batch).teacher
  width = len(qwen.bytes_of(qwen.encode('parser argument')[0]))
  assert not pair.student_spans[0, :width].any()
  assert pair.student_spans[0, width] == pair.spans[0, 0] == 1
