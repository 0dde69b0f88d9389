"""Chat templates: convert messages to text, ids and loss weights."""

from collections.abc import Sequence

import numpy as np

from kd.core import errors
from kd.core import registry
from kd.core import types
from kd.images import form as form_lib
from kd.input_pipeline import image_tokens
from kd.input_pipeline import plain_template
from kd.input_pipeline import tokenizers
from kd.models import chat_turns
from kd.models import families

Message = chat_turns.Message

# Maps values of data.template to chat_turns.Template.
TEMPLATES = registry.Registry(families.CHAT_TEMPLATE)
TEMPLATES.register('plain')(plain_template.TEMPLATE)
for _name, _template in families.chat_templates().items():
  TEMPLATES.register(_name)(_template)


def exchange(
  inputs: str, targets: str | None = None, rationale: str = ''
) -> list[Message]:
  """Returns a user's turn and, if `targets` is given, the model's answer.

  Args:
    inputs: text of the user.
    targets: text of the model.
    rationale: the beginning of `targets` that is the rationale.

  Returns:
    The messages for `render`.
  """
  messages = [{'role': 'user', 'content': inputs}]
  if targets is not None:
    messages.append(
      {'role': 'assistant', 'content': targets, 'rationale': rationale}
    )
  return messages


def has_turns(name: str) -> bool:
  """Returns whether a template can write several turns and a system text."""
  return TEMPLATES[name].marks is not None


def with_turns() -> str:
  """Returns the names of the templates that have turns, for messages."""
  return ', '.join(repr(name) for name in TEMPLATES.names() if has_turns(name))


def check_name(name: str, path: str = 'data.template') -> None:
  """Raises ConfigError unless `name` names a template."""
  if name not in TEMPLATES:
    raise errors.unknown(path, 'template', name, TEMPLATES.names())


def render(
  name: str, messages: Sequence[Message], generate: bool = False
) -> tuple[str, list[chat_turns.Turn]]:
  """Formats messages as text for the model.

  Args:
    name: one of TEMPLATES.
    messages: dicts with `role` (system, user, assistant or model, tool) and
      `content`. Those of the model may have `weight`, `rationale` (the
      beginning of the content) and `tool_calls`.
    generate: whether to end with the opening of the model's turn.

  Returns:
    The text, which begins with chat_turns.BOS if the template has a BOS, and
    the supervised parts: the model's turns, including the marks that end them.

  Raises:
    ConfigError: the template or a role is unknown, or turns are out of order.
  """
  check_name(name)
  for i, message in enumerate(messages):
    role = message['role']
    if role not in chat_turns.ROLES:
      raise errors.unknown(
        f'messages[{i}].role', 'role', role, chat_turns.ROLES
      )
  return TEMPLATES[name].render(messages, generate)


def encode(
  tokenizer: tokenizers.Tokenizer,
  name: str,
  messages: Sequence[Message],
  form: form_lib.Form | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Encodes a whole example as ids, with the part and weight of each.

  The text is tokenized as a whole, so the ids are the same as in inference. A
  token belongs to the model's turn, or to the turn's rationale, if it overlaps
  it. So a token with characters of prompt and answer is supervised, and one
  with characters of rationale and answer belongs to the rationale.

  Args:
    tokenizer: tokenizer of the text.
    name: name of the template.
    messages: messages for `render`.
    form: format of the model's images, whose soft tokens are among the ids;
      None if it takes none.

  Returns:
    ids: int32 [n], starting with BOS if the template and the tokenizer have it.
    parts: int32 [n], types.RATIONALE, or types.ANSWER for all other ids.
    weights: float32 [n], the message's weight (default 1) for the model's turns
      and the marks that end them, 0 elsewhere.

  Raises:
    ConfigError: see `render`.
  """
  check_tokenizer(tokenizer, name)
  text, turns = render(name, messages)
  crops = _crops(tokenizer, name, messages, form)
  if crops:
    text, turns = image_tokens.expand(text, turns, crops)
  closed = not has_turns(name) and len(messages) == 2
  # BOS and EOS are added as ids, so that a user's text can never contain them.
  first, body = _split_bos(tokenizer, text)
  cut = len(text) - len(body)
  if closed:
    body = body.removesuffix(chat_turns.EOS)
  ids, offsets = _encode_body(tokenizer, body, form)
  begins, ends = offsets.T
  first_id, end = len(first), len(first) + len(ids)
  all_ids = np.full(end + closed, tokenizer.eos_id, np.int32)
  all_ids[:first_id], all_ids[first_id:end] = first, ids
  parts = np.full(end + closed, types.ANSWER, np.int32)
  weights = np.zeros(end + closed, np.float32)
  # Reversed, so that a token shared by two turns belongs to the first.
  for turn in reversed(turns):
    begin = turn.begin - cut
    at = _overlapping(begins, ends, begin, turn.end - cut)
    weights[first_id:end][at] = turn.weight
    at = _overlapping(begins, ends, begin, turn.answer - cut)
    parts[first_id:end][at] = types.RATIONALE
  if closed:
    weights[end] = turns[0].weight
  return all_ids, parts, weights


def _crops(tokenizer, name, messages, form) -> list[int]:
  """Returns the number of crops of each image.

  Raises:
    ConfigError: the model, template or vocabulary does not support images.
  """
  crops = image_tokens.crops(messages, form)
  if crops and not TEMPLATES[name].images:
    able = [n for n in TEMPLATES.names() if TEMPLATES[n].images]
    raise errors.ConfigError(
      'data.template',
      f'{name!r} cannot write images',
      legal=', '.join(map(repr, able)),
    )
  if crops and tokenizer.image_ids is None:
    raise errors.ConfigError(
      'data.tokenizer',
      'has no tokens that begin and end an image',
      legal="Gemma 3's tokenizer, or 'bytes'",
    )
  return crops


def _encode_body(tokenizer, body, form):
  """Returns ids and offsets of a text, which may have images with `form`."""
  if form is None or tokenizer.image_ids is None:
    return tokenizer.encode_with_offsets(body)
  return image_tokens.encode(tokenizer, body, form)


def _split_bos(
  tokenizer: tokenizers.Tokenizer, text: str
) -> tuple[list[int], str]:
  """Returns the ids of a rendered text's BOS and the text after it."""
  body = text.removeprefix(chat_turns.BOS)
  has_bos = len(body) < len(text) and tokenizer.bos_id is not None
  return [tokenizer.bos_id] if has_bos else [], body


def _overlapping(
  begins: np.ndarray, ends: np.ndarray, begin: int, end: int
) -> slice:
  """Returns the slice of tokens that overlap the characters [begin, end).

  Args:
    begins: [n], first character of each token, in ascending order.
    ends: [n], end of each token's characters, in ascending order.
    begin: first character.
    end: end of the characters.
  """
  if begin == end:
    return slice(0)
  first = ends.searchsorted(begin, side='right')
  return slice(first, begins.searchsorted(end, side='left'))


def encode_prompt(
  tokenizer: tokenizers.Tokenizer,
  name: str,
  messages: Sequence[Message],
  form: form_lib.Form | None = None,
) -> list[int]:
  """Encodes a prompt that the model continues.

  Args:
    tokenizer: tokenizer of the text.
    name: name of the template.
    messages: messages for `render`, ending with a user's turn.
    form: see `encode`.

  Returns:
    The ids, starting with BOS if the template and the tokenizer have it.

  Raises:
    ConfigError: see `render`; or the last turn is the model's, or there are no
      ids.
  """
  check_tokenizer(tokenizer, name)
  text, _ = render(name, messages, generate=True)
  crops = _crops(tokenizer, name, messages, form)
  if not crops:
    return encode_text(tokenizer, text)
  first, body = _split_bos(tokenizer, image_tokens.expand(text, (), crops)[0])
  return first + _encode_body(tokenizer, body, form)[0].tolist()


def encode_text(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
  """Encodes a rendered text that the model continues.

  Args:
    tokenizer: tokenizer of the text.
    text: a text of `render`, followed by the model's output so far.

  Raises:
    ConfigError: the text is empty and the tokenizer has no BOS.
  """
  first, body = _split_bos(tokenizer, text)
  ids = first + tokenizer.encode(body)
  if not ids:
    raise errors.ConfigError(
      'messages',
      'are empty, and the tokenizer has no BOS',
      legal='a prompt of one token or more',
    )
  return ids


def check_tokenizer(
  tokenizer: tokenizers.Tokenizer, name: str, path: str = 'data.template'
) -> None:
  """Raises ConfigError if the tokenizer lacks a mark of the template."""
  check_name(name, path)
  for mark in TEMPLATES[name].marks or ():
    if tokenizer.id_of(mark) is None:
      raise errors.ConfigError(
        path,
        f'{name!r} needs {mark}, which the tokenizer lacks',
        legal=_writable(tokenizer),
      )


def _writable(tokenizer: tokenizers.Tokenizer) -> str:
  """Returns the names of the templates whose marks a tokenizer has."""
  return ', '.join(
    repr(name)
    for name in TEMPLATES.names()
    if all(
      tokenizer.id_of(mark) is not None for mark in TEMPLATES[name].marks or ()
    )
  )
