"""Compares the turns of prompts with the text that Gemma expects."""

import pytest

from kd.core import errors
from kd.input_pipeline import tokenizers
from kd.sampling import dialogue

_TOKENIZER = tokenizers.load('bytes')


def _text(ids):
  """Returns the text of ids, with the marks of turns as | and BOS as ^."""
  marks = {
    _TOKENIZER.bos_id: '^',
    _TOKENIZER.id_of('<start_of_turn>'): '|',
    _TOKENIZER.id_of('<end_of_turn>'): '|',
  }
  return ''.join(marks.get(i) or _TOKENIZER.decode([i]) for i in ids)


def test_prompts_contain_the_whole_dialogue():
  turns = dialogue.Dialogue(_TOKENIZER, 'gemma', 1000)
  turns.system_text = 'Be kind.'
  ids, dropped = turns.prompt('A?')
  assert (_text(ids), dropped) == (
    '^|user\nBe kind.\n\nA?|\n|model\n',
    0,
  )
  turns.add('A?', 'a')
  turns.system_text = ''
  ids, dropped = turns.prompt('B?')
  assert (_text(ids), dropped) == (
    '^|user\nA?|\n|model\na|\n|user\nB?|\n|model\n',
    0,
  )
  turns.reset()
  ids, _ = turns.prompt('C?')
  assert _text(ids) == '^|user\nC?|\n|model\n'


def test_dropped_exchanges_stay_dropped():
  text = '^|user\nS\n\nC?|\n|model\nc|\n|user\nD?|\n|model\n'
  turns = dialogue.Dialogue(_TOKENIZER, 'gemma', len(text))
  turns.system_text = 'S'
  for letter in 'ABC':
    turns.add(f'{letter}?', letter.lower())
  ids, dropped = turns.prompt('D?')
  # The system text stays, in front of the first message that is left.
  assert (_text(ids), dropped) == (text, 2)
  assert turns.prompt('D?') == (ids, 0)
  with pytest.raises(errors.ConfigError, match=f'at most {len(text)}, the con'):
    turns.prompt('x' * len(text))
  # A refused message drops nothing.
  assert turns.prompt('D?') == (ids, 0)


def test_templates_without_turns_answer_each_message_separately():
  turns = dialogue.Dialogue(_TOKENIZER, 'plain', 10)
  turns.add('A?', 'a')
  ids, dropped = turns.prompt('B?')
  assert (_text(ids), dropped) == ('^B?', 0)
