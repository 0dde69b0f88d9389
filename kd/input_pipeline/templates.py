"""Chat templates: messages to text, ids and the tokens that the loss is on."""

from collections.abc import Mapping, Sequence

from kd.core import errors
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import tokenizers

NAMES = ('plain', 'gemma')
BOS = '<bos>'
EOS = '<eos>'

Message = Mapping[str, str]
Spans = list[tuple[int, int]]

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


def exchange(inputs: str, targets: str | None = None) -> list[Message]:
  """A user's turn and, where `targets` is given, the model's answer."""
  messages = [{'role': 'user', 'content': inputs}]
  if targets is not None:
    messages.append({'role': 'assistant', 'content': targets})
  return messages


def check_name(name: str, path: str = 'data.template') -> None:
  """Raises ConfigError unless `name` is a template's."""
  if name not in NAMES:
    raise errors.unknown(path, 'template', name, NAMES)


def render(
  name: str, messages: Sequence[Message], generate: bool = False
) -> tuple[str, Spans]:
  """Writes messages as the text that the model reads.

  Args:
    name: 'plain' (BOS, inputs, targets, EOS) or 'gemma' (Gemma 3's turns).
    messages: dicts of `role` (system, user, assistant or model) and `content`.
    generate: end with the opening of the model's turn.

  Returns:
    The text, BOS written out, and the (begin, end) spans of its characters that
    are supervised: the model's turns with what ends them.

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
  return text, [(len(prompt), len(text))]


def _render_gemma(messages, generate):
  text, spans, prefix = BOS, [], ''
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
    text += (prefix if i == 0 else '') + message['content'].strip()
    text += sentencepiece_models.END_OF_TURN
    if role == 'model':
      spans.append((begin, len(text)))
    text += '\n'
  if generate:
    if messages[-1]['role'] != 'user':
      raise errors.ConfigError(
        'messages',
        'end with a model turn, so nothing is to generate',
        legal='a user turn at the end',
      )
    text += f'{sentencepiece_models.START_OF_TURN}model\n'
  return text, spans


def encode(
  tokenizer: tokenizers.Tokenizer, name: str, messages: Sequence[Message]
) -> tuple[list[int], list[float]]:
  """Ids of a whole example and the weight of each as a target.

  The text is tokenized as one, so ids are those that a model sees when it reads
  it; a token that holds both prompt and answer counts as answer.

  Args:
    tokenizer: gives the ids.
    name: the template.
    messages: as for `render`.

  Returns:
    ids, with exactly one BOS in front, and as many weights: 1 on the model's
    turns and what ends them, 0 elsewhere.

  Raises:
    ConfigError: as `render`.
  """
  check_tokenizer(tokenizer, name)
  text, spans = render(name, messages)
  closed = name == 'plain' and len(messages) == 2
  # BOS and EOS are ids, not text: what a user writes can never become one.
  body = text[len(BOS) : len(text) - (len(EOS) if closed else 0)]
  ids, offsets = tokenizer.encode_with_offsets(body)
  weights = _weights(offsets, [(b - len(BOS), e - len(BOS)) for b, e in spans])
  ids, weights = [tokenizer.bos_id] + ids, [0.0] + weights
  if closed:
    ids, weights = ids + [tokenizer.eos_id], weights + [1.0]
  return ids, weights


def _weights(offsets: Spans, spans: Spans) -> list[float]:
  """1 for each token that shares a character with a span; both in order."""
  weights, at = [], 0
  for begin, end in offsets:
    while at < len(spans) and spans[at][1] <= begin:
      at += 1
    inside = at < len(spans) and end > spans[at][0]
    weights.append(1.0 if inside else 0.0)
  return weights


def encode_prompt(
  tokenizer: tokenizers.Tokenizer, name: str, messages: Sequence[Message]
) -> list[int]:
  """Ids from which the model goes on with its answer, exactly one BOS first.

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
