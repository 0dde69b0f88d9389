"""Chat templates: messages to text, ids and the tokens that the loss is on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kd.core import errors
from kd.core import types
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import tokenizers

NAMES = ('plain', 'gemma')
BOS = '<bos>'
EOS = '<eos>'

Message = Mapping[str, str]
Spans = list[tuple[int, int]]


class Turn(NamedTuple):
  """A turn of the model in a text, by numbers of characters before it.

  Attributes:
    begin: where what the model says begins.
    answer: where its rationale ends; `begin` where it gives none.
    end: behind the mark that ends the turn.
  """

  begin: int
  answer: int
  end: int


# Jinja's whitespace in `trim` is Python's str.strip, so both paths agree.
GEMMA_JINJA = """\
{{ bos_token }}
{%- set prefix = namespace(text='') -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set prefix.text = messages[0]['content'] + '\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for turn in turns -%}
  {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
  {%- endif -%}
  {{ '<start_of_turn>' }}
  {{- 'model' if turn['role'] == 'assistant' else turn['role'] }}
  {{- '\\n' }}
  {{- prefix.text if loop.first else '' }}
  {{- turn['content'] | trim }}
  {{- '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

PLAIN_JINJA = """\
{{ bos_token }}
{%- for turn in messages -%}
  {{ turn['content'] }}
  {%- if turn['role'] == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
"""

JINJA = {'plain': PLAIN_JINJA, 'gemma': GEMMA_JINJA}


def exchange(
  inputs: str, targets: str | None = None, rationale: str = ''
) -> list[Message]:
  """A user's turn and, where `targets` is given, the model's answer.

  Args:
    inputs: what the user says.
    targets: what the model says.
    rationale: the beginning of `targets` that is the rationale.

  Returns:
    The messages, as for `render`.
  """
  messages = [{'role': 'user', 'content': inputs}]
  if targets is not None:
    messages.append(
      {'role': 'assistant', 'content': targets, 'rationale': rationale}
    )
  return messages


def has_turns(name: str) -> bool:
  """Returns whether a template can write a chat: system text, several turns."""
  return name == 'gemma'


def check_name(name: str, path: str = 'data.template') -> None:
  """Raises ConfigError unless `name` is a template's."""
  if name not in NAMES:
    raise errors.unknown(path, 'template', name, NAMES)


def render(
  name: str, messages: Sequence[Message], generate: bool = False
) -> tuple[str, list[Turn]]:
  """Writes messages as the text that the model reads.

  Args:
    name: 'plain' (BOS, inputs, targets, EOS) or 'gemma' (Gemma 3's turns).
    messages: dicts of `role` (system, user, assistant or model) and `content`;
      the model's may have `rationale`, the beginning of the content that is it.
    generate: end with the opening of the model's turn.

  Returns:
    The text, BOS written out, and the model's turns in it with what ends them,
    which are what is supervised.

  Raises:
    ConfigError: an unknown template or role, or turns out of order.
  """
  check_name(name)
  for i, message in enumerate(messages):
    role = message['role']
    if role not in ('system', 'user', 'assistant', 'model'):
      raise errors.unknown(
        f'messages[{i}].role',
        'role',
        role,
        ('system', 'user', 'assistant', 'model'),
      )
  writer = _render_plain if name == 'plain' else _render_gemma
  return writer(messages, generate)


def _render_plain(messages, generate):
  roles = [m['role'] for m in messages]
  if roles not in (['user'], ['user', 'assistant'], ['user', 'model']):
    raise errors.ConfigError(
      'messages',
      f"the 'plain' template cannot write the turns {roles}",
      legal="one user turn, then at most one assistant turn (use 'gemma')",
    )
  prompt = BOS + messages[0]['content']
  if generate or len(messages) == 1:
    if len(messages) != 1:
      raise errors.ConfigError(
        'messages',
        'end with an assistant turn, so nothing is to generate',
        legal='a user turn at the end',
      )
    return prompt, []
  text = prompt + messages[1]['content'] + EOS
  answer = len(prompt) + len(_rationale(messages[1]))
  return text, [Turn(len(prompt), answer, len(text))]


def _render_gemma(messages, generate):
  text, turns, prefix = BOS, [], ''
  if messages and messages[0]['role'] == 'system':
    prefix = messages[0]['content'] + '\n\n'
    messages = messages[1:]
  if not messages:
    raise errors.ConfigError(
      'messages',
      'hold no user turn',
      legal='[system,] user, assistant, user, ...',
    )
  for i, message in enumerate(messages):
    role = 'model' if message['role'] == 'assistant' else message['role']
    wanted = ('user', 'model')[i % 2]
    if role != wanted:
      raise errors.ConfigError(
        f'messages, turn {i + 1}',
        f'is a {role} turn',
        nearest=wanted,
        legal='[system,] user, assistant, user, ... in turn',
      )
    text += f'{sentencepiece_models.START_OF_TURN}{role}\n'
    begin = len(text)
    said = message['content'].strip()
    text += (prefix if i == 0 else '') + said + sentencepiece_models.END_OF_TURN
    if role == 'model':
      rationale = _rationale(message).lstrip()[: len(said)]
      turns.append(Turn(begin, begin + len(rationale), len(text)))
    text += '\n'
  if generate:
    if messages[-1]['role'] != 'user':
      raise errors.ConfigError(
        'messages',
        'end with a model turn, so nothing is to generate',
        legal='a user turn at the end',
      )
    text += f'{sentencepiece_models.START_OF_TURN}model\n'
  return text, turns


def _rationale(message: Message) -> str:
  return message['rationale'] if 'rationale' in message else ''


def encode(
  tokenizer: tokenizers.Tokenizer, name: str, messages: Sequence[Message]
) -> tuple[list[int], list[int], list[float]]:
  """Ids of a whole example, the part and the weight of each as a target.

  The text is tokenized as one, so ids are those that a model sees when it reads
  it. A token belongs to the model's turn if it shares a character with it, and
  to the turn's rationale if it shares one with that: a token that holds both
  prompt and answer is supervised, one that holds the end of the rationale and
  the beginning of the answer is the rationale's last.

  Args:
    tokenizer: gives the ids.
    name: the template.
    messages: as for `render`.

  Returns:
    ids, with exactly one BOS in front; as many parts: types.RATIONALE, or
    types.ANSWER on all else; as many weights: 1 on the model's turns and what
    ends them, 0 elsewhere.

  Raises:
    ConfigError: as `render`.
  """
  check_tokenizer(tokenizer, name)
  text, turns = render(name, messages)
  closed = name == 'plain' and len(messages) == 2
  # BOS and EOS are ids, not text: what a user writes can never become one.
  body = text[len(BOS) : len(text) - (len(EOS) if closed else 0)]
  ids, offsets = tokenizer.encode_with_offsets(body)
  offsets = [(begin + len(BOS), end + len(BOS)) for begin, end in offsets]
  said = _share(offsets, [(t.begin, t.end) for t in turns])
  worked = _share(offsets, [(t.begin, t.answer) for t in turns])
  parts = [types.RATIONALE if w else types.ANSWER for w in worked]
  ids, parts = [tokenizer.bos_id] + ids, [types.ANSWER] + parts
  weights = [0.0] + [float(s) for s in said]
  if closed:
    ids, parts = ids + [tokenizer.eos_id], parts + [types.ANSWER]
    weights.append(1.0)
  return ids, parts, weights


def _share(offsets: Spans, spans: Spans) -> list[bool]:
  """Whether each token shares a character with a span; both in order."""
  spans = [(begin, end) for begin, end in spans if begin < end]
  shares, at = [], 0
  for begin, end in offsets:
    while at < len(spans) and spans[at][1] <= begin:
      at += 1
    shares.append(at < len(spans) and end > spans[at][0])
  return shares


def encode_prompt(
  tokenizer: tokenizers.Tokenizer, name: str, messages: Sequence[Message]
) -> list[int]:
  """Returns the ids of a prompt that the model continues, one BOS first.

  Args:
    tokenizer: gives the ids.
    name: the template.
    messages: ending with a user's turn.

  Returns:
    The ids.

  Raises:
    ConfigError: as `render`, or the last turn is the model's.
  """
  check_tokenizer(tokenizer, name)
  text, _ = render(name, messages, generate=True)
  return [tokenizer.bos_id] + tokenizer.encode(text[len(BOS) :])


def stop_id(tokenizer: tokenizers.Tokenizer, name: str) -> int:
  """The id with which the model's answer ends under a template."""
  check_tokenizer(tokenizer, name)
  return tokenizer.end_of_turn_id if name == 'gemma' else tokenizer.eos_id


def check_tokenizer(
  tokenizer: tokenizers.Tokenizer, name: str, path: str = 'data.template'
) -> None:
  """Raises ConfigError if the tokenizer cannot write the template."""
  check_name(name, path)
  if name == 'gemma' and (
    tokenizer.start_of_turn_id is None or tokenizer.end_of_turn_id is None
  ):
    raise errors.ConfigError(
      path,
      "'gemma' needs <start_of_turn> and <end_of_turn>, which the "
      'tokenizer lacks',
      legal="'plain' for this tokenizer",
    )
