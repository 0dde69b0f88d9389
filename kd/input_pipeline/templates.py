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

# Of chat_turns.Template, by the value of data.template.
TEMPLATES = registry.Registry(families.CHAT_TEMPLATE)
TEMPLATES.register('plain')(plain_template.TEMPLATE)
for _name, _template in families.chat_templates().items():
  TEMPLATES.register(_name)(_template)


def exchange(
  inputs: str, targets: str | None = None, rationale: str = ''
) -> list[Message]:
  """Returns a user's turn and, where `targets` is given, the model's answer.

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
  """Writes messages as the text that the model reads.

  Args:
    name: one of TEMPLATES.
    messages: dicts of `role` (system, user, assistant or model, tool) and
      `content`; the model's may have `weight`, `rationale`, the beginning of
      the content, and `tool_calls`.
    generate: end with the opening of the model's turn.

  Returns:
    The text, which begins with chat_turns.BOS if the template writes a BOS, and
    the model's turns in it with the marks that end them: the supervised parts.

  Raises:
    ConfigError: an unknown template or role, or turns out of order.
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
  """Returns the ids of a whole example, and the part and weight of each.

  The text is tokenized as a whole, so the ids are those that a model sees. A
  token belongs to the model's turn if it shares a character with it, and to the
  turn's rationale if it shares one with that: a token with characters of prompt
  and answer is supervised; one with characters of rationale and answer belongs
  to the rationale.

  Args:
    tokenizer: gives the ids.
    name: the template.
    messages: as for `render`.
    form: how the model takes images, whose soft tokens are among the ids; None
      if it takes none.

  Returns:
    ids, int32 [n], with one BOS in front if the template and the tokenizer have
    one; a part for each, int32 [n]: types.RATIONALE, or types.ANSWER on all
    else; a weight for each, float32 [n]: the message's (1) on the model's turns
    and the marks that end them, 0 elsewhere.

  Raises:
    ConfigError: as `render`.
  """
  check_tokenizer(tokenizer, name)
  text, turns = render(name, messages)
  crops = _crops(tokenizer, name, messages, form)
  if crops:
    text, turns = image_tokens.expand(text, turns, crops)
  closed = not has_turns(name) and len(messages) == 2
  # BOS and EOS are ids, not text: what a user writes can never become one.
  first, body = _split_bos(tokenizer, text)
  cut = len(text) - len(body)
  if closed:
    body = body.removesuffix(chat_turns.EOS)
  ids, offsets = _encode_body(tokenizer, body, form)
  begins, ends = (x + cut for x in offsets.T)
  first_id, end = len(first), len(first) + len(ids)
  all_ids = np.full(end + closed, tokenizer.eos_id, np.int32)
  all_ids[:first_id], all_ids[first_id:end] = first, ids
  parts = np.full(end + closed, types.ANSWER, np.int32)
  weights = np.zeros(end + closed, np.float32)
  # From the last one: a token that two turns share belongs to the first.
  for turn in reversed(turns):
    at = _overlapping(begins, ends, turn.begin, turn.end)
    weights[first_id:end][at] = turn.weight
    at = _overlapping(begins, ends, turn.begin, turn.answer)
    parts[first_id:end][at] = types.RATIONALE
  if closed:
    weights[end] = turns[0].weight
  return all_ids, parts, weights


def _crops(tokenizer, name, messages, form) -> list[int]:
  """Returns the number of crops of each image.

  Raises:
    ConfigError: the model, the template or the vocabulary takes no images.
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
  """Returns the ids of a rendered text's BOS, and the text after it."""
  body = text.removeprefix(chat_turns.BOS)
  has_bos = len(body) < len(text) and tokenizer.bos_id is not None
  return [tokenizer.bos_id] if has_bos else [], body


def _overlapping(
  begins: np.ndarray, ends: np.ndarray, begin: int, end: int
) -> slice:
  """Returns which tokens share a character with [begin, end).

  Args:
    begins: of the characters of each token; [n], in order.
    ends: of these; [n], in order.
    begin: of characters.
    end: of these.
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
  """Returns the ids of a prompt that the model continues.

  Args:
    tokenizer: gives the ids.
    name: the template.
    messages: ending with a user's turn.
    form: as for `encode`.

  Returns:
    The ids, with one BOS in front if the template and the tokenizer have one.

  Raises:
    ConfigError: as `render`, or the last turn is the model's, or there is no id
      at all.
  """
  check_tokenizer(tokenizer, name)
  text, _ = render(name, messages, generate=True)
  crops = _crops(tokenizer, name, messages, form)
  if not crops:
    return encode_text(tokenizer, text)
  first, body = _split_bos(tokenizer, image_tokens.expand(text, (), crops)[0])
  return first + _encode_body(tokenizer, body, form)[0].tolist()


def encode_text(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
  """Returns the ids of a rendered text that ends where the model continues.

  Args:
    tokenizer: gives the ids.
    text: from `render`, and what the model has said since.

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
  """Raises ConfigError if the tokenizer cannot write the template."""
  check_name(name, path)
  for mark in TEMPLATES[name].marks or ():
    if tokenizer.id_of(mark) is None:
      raise errors.ConfigError(
        path,
        f'{name!r} needs {mark}, which the tokenizer lacks',
        legal=_writable(tokenizer),
      )


def _writable(tokenizer: tokenizers.Tokenizer) -> str:
  """Returns the names of the templates that a tokenizer can write."""
  return ', '.join(
    repr(name)
    for name in TEMPLATES.names()
    if all(
      tokenizer.id_of(mark) is not None for mark in TEMPLATES[name].marks or ()
    )
  )
