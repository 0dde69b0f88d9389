"""Tests streamed parts: whole characters, and no start of a stop string."""

import pytest

from kd.input_pipeline import tokenizers
from kd.sampling import streaming

_TEXT = 'Zwölf 😀 kosten 3 €.'


def _letters(ids):
  return ''.join(chr(ord('a') + i) for i in ids)


@pytest.mark.parametrize('step', (1, 2, 3, 7))
def test_characters_are_emitted_with_their_last_byte(step):
  tokenizer = tokenizers.load('bytes')
  ids = tokenizer.encode(_TEXT)
  assert len(ids) == len(_TEXT.encode('utf-8')) > len(_TEXT)
  stream, parts = streaming.Stream(tokenizer.decode, ()), []
  for count in range(step, len(ids), step):
    parts.append(stream.add(ids[:count]))
    whole = bytes(_TEXT, 'utf-8')[:count].decode('utf-8', errors='ignore')
    assert ''.join(parts) == stream.text == whole
  parts.append(stream.end(_TEXT))
  assert ''.join(parts) == stream.text == _TEXT


def test_invalid_bytes_are_emitted_once_recognized():
  tokenizer = tokenizers.load('bytes')
  euro = tokenizer.encode('€')
  stream = streaming.Stream(tokenizer.decode, ())
  ids = [*euro[:2], *tokenizer.encode('a'), euro[0]]
  assert [stream.add(ids[:n]) for n in (1, 2)] == ['', '']
  assert stream.add(ids[:3]) == tokenizer.decode(ids[:3])
  assert stream.add(ids) == ''
  # The answer ends here: its text is what --mode=generate writes.
  assert stream.end(tokenizer.decode(ids)) == '\N{REPLACEMENT CHARACTER}'


def test_the_beginning_of_a_stop_string_is_held_back():
  stream = streaming.Stream(_letters, ('cdc', 'dx'))
  text = 'abcdcc'
  parts = [stream.add([ord(c) - ord('a') for c in text[:n]]) for n in (1, 2, 3)]
  assert parts == ['a', 'b', '']
  # 'cd' may become 'cdc'; 'cde' cannot, nor can its end become 'dx'.
  assert stream.add([0, 1, 2, 3]) == ''
  assert stream.add([0, 1, 2, 3, 4]) == 'cde'
  assert stream.add([0, 1, 2, 3, 4, 3]) == ''
  assert stream.end('abcde') == ''
  assert stream.text == 'abcde'


def test_held_back_text_is_emitted_at_the_end():
  stream = streaming.Stream(_letters, ('cd',))
  assert stream.add([0, 2]) == 'a'
  assert stream.end('ac') == 'c'
