"""Checks users' chats and converts them to one format."""

from collections.abc import Iterator, Mapping, Sequence
import json
import math
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.core import text_files
from kd.data_files import image_parts
from kd.images import loading
from kd.models import chat_turns

# Names of roles in other data sets and APIs.
_ALIASES = {'model': 'assistant', 'human': 'user', 'gpt': 'assistant'}
ROLES = ('system', 'user', 'assistant', 'tool')
# Keys that do not affect the model's input.
_IGNORED = ('name', 'tool_call_id')
KEYS = ('role', 'content', 'weight', 'train', 'rationale', 'tool_calls')
_LEGAL = '{"role": "user", "content": "text"}'
MOST_WEIGHT = 1e6

Message = dict[str, Any]


def check(
  messages: Any,
  where: str,
  loader: loading.Loader | None = None,
  images: Sequence[Any] = (),
) -> list[Message]:
  """Returns a chat's messages in one format.

  Args:
    messages: a list of dicts with role and content. Assistant messages may also
      have weight (a number) or train (true or false), rationale (the beginning
      of the content) and tool_calls. The contents of user messages may have
      images.
    where: the file and line, for errors.
    loader: reads images; None: only inline images.
    images: the images for the parts {"type": "image"} without one, in order.

  Returns:
    A dict per message: role (one of ROLES), content, weight (0 except for the
    assistant) and, where given, rationale, tool_calls (a list of
    {name, arguments}) and images (files in base64, each marked by
    chat_turns.IMAGE in the content).

  Raises:
    ConfigError: a message is invalid; names the message and the field.
  """
  if not isinstance(messages, list) or not messages:
    raise errors.ConfigError(
      f'{where}: messages',
      f'are {json_files.short(messages)}',
      legal=f'a list of {_LEGAL}',
    )
  waiting = iter(images)
  loader = loader or loading.Loader()
  checked = [
    _message(message, f'{where}: messages[{i}]', loader, waiting)
    for i, message in enumerate(messages)
  ]
  left = len(list(waiting))
  if left:
    raise errors.ConfigError(
      f'{where}: images',
      f'are {len(images)}, but the messages have {len(images) - left} places',
      legal='a part {"type": "image"} of a message for each image; or '
      "data.columns.images='' to ignore the column",
    )
  place = chat_turns.out_of_order(checked)
  if place is not None:
    i, expected = place
    raise errors.ConfigError(
      f'{where}: messages[{i}].role',
      f'found {checked[i]["role"]!r}',
      legal=f'{expected} (order: {chat_turns.ORDER})',
    )
  if all(message['role'] == 'system' for message in checked):
    raise errors.ConfigError(
      f'{where}: messages', 'contain no user turn', legal=chat_turns.ORDER
    )
  return checked


def check_trained(chat: list[Message], where: str) -> None:
  """Raises ConfigError if no message of a checked chat is trained on."""
  if not any(message['weight'] for message in chat):
    raise errors.ConfigError(
      where,
      'has no message to train on: all assistant messages have weight 0',
      legal='at least one with a weight above 0',
    )


def _message(
  message: Any,
  where: str,
  loader: loading.Loader,
  waiting: Iterator[Any],
) -> Message:
  if not isinstance(message, Mapping):
    raise errors.ConfigError(
      where, f'is {json_files.short(message)}', legal=_LEGAL
    )
  given = {key: value for key, value in message.items() if value is not None}
  for key in given:
    if key not in (*KEYS, *_IGNORED):
      raise errors.unknown(where, 'key', str(key), KEYS)
  role = _role(given, where)
  calls = given.get('tool_calls') or []
  checked = {
    'role': role,
    'content': _content(given, where, optional=bool(calls)),
    'weight': _weight(given, role, where),
  }
  images = image_parts.load(given.get('content'), role, where, loader, waiting)
  if images:
    checked['images'] = images
  if 'rationale' in given:
    checked['rationale'] = _rationale(given, checked, where)
  if calls:
    _only_assistant(role, f'{where}.tool_calls')
    checked['tool_calls'] = _calls(calls, f'{where}.tool_calls')
  return checked


def _role(message, where):
  if 'role' not in message:
    near = errors.nearest('role', map(str, message))
    raise errors.ConfigError(
      where, 'has no role', legal=', '.join(ROLES), nearest=near
    )
  role = message['role']
  role = _ALIASES.get(role, role) if isinstance(role, str) else role
  if role not in ROLES:
    raise errors.unknown(f'{where}.role', 'role', str(role), ROLES)
  return role


def _content(message, where, optional):
  content = message.get('content', '' if optional else None)
  if isinstance(content, list):
    content = ''.join(_part(part, where) for part in content)
    if chat_turns.IMAGE in content:
      return content  # _part has checked the texts.
  if content is None:
    raise errors.ConfigError(where, 'has no content', legal=_LEGAL)
  return text(content, f'{where}.content', optional)


def _part(part, where):
  if image_parts.is_image(part):
    return chat_turns.IMAGE
  if isinstance(part, Mapping) and part.get('type') == 'text':
    return text(part.get('text'), f'{where}.content', may_be_empty=True)
  raise errors.ConfigError(
    f'{where}.content',
    f'found {json_files.short(part)}',
    legal=f'text, or parts {{"type": "text", "text": "..."}}, {loading.LEGAL}',
  )


def text(value: Any, where: str, may_be_empty: bool = False) -> str:
  """Checks that a text can be tokenized and returns it.

  Raises:
    ConfigError: the value is not text, contains only white space, or contains a
      null character or half of a surrogate pair.
  """
  if not isinstance(value, str):
    raise errors.ConfigError(
      where, f'is {json_files.short(value)}', legal='text'
    )
  if '\0' in value:
    raise errors.ConfigError(
      where,
      f'has a null character (U+0000) at character {value.index(chr(0)) + 1}',
      legal='text without null characters',
    )
  text_files.check_unicode(value, where)
  if not may_be_empty and not value.strip():
    raise errors.ConfigError(where, 'is empty', legal='text')
  return value


def _weight(message, role, where):
  """Returns the weight of each token of a message."""
  if 'weight' in message and 'train' in message:
    raise errors.ConfigError(
      where, 'has both weight and train', legal='one of them'
    )
  if 'train' in message:
    value = message['train']
    if not isinstance(value, bool):
      raise errors.ConfigError(
        f'{where}.train',
        f'is {json_files.short(value)}',
        legal='true or false',
      )
  else:
    value = message.get('weight', role == 'assistant')
  value = weight(value, f'{where}.weight')
  if value and role != 'assistant':
    raise errors.ConfigError(
      f'{where}.{"train" if "train" in message else "weight"}',
      f'is {message.get("train", value)!r} on a {role} message',
      legal='0 or false: only assistant messages are trained on',
    )
  return value


def weight(value: Any, where: str) -> float:
  """Checks a weight and returns it.

  Raises:
    ConfigError: the value is not a finite number from 0 to MOST_WEIGHT.
  """
  is_number = isinstance(value, int | float)
  if not is_number or not math.isfinite(value) or not 0 <= value <= MOST_WEIGHT:
    raise errors.ConfigError(
      where,
      f'is {json_files.short(value)}',
      legal=f'a number from 0 to {MOST_WEIGHT:,.0f}',
    )
  return float(value)


def _rationale(message, checked, where):
  _only_assistant(checked['role'], f'{where}.rationale')
  rationale = text(message['rationale'], f'{where}.rationale', True)
  if not checked['content'].startswith(rationale):
    raise errors.ConfigError(
      f'{where}.rationale',
      f'{json_files.short(rationale)} does not begin the content, '
      f'{json_files.short(checked["content"])}',
      legal='the first characters of the content, unchanged',
    )
  return rationale


def _only_assistant(role, where):
  if role != 'assistant':
    raise errors.ConfigError(
      where, f'is set on a {role} message', legal='an assistant message'
    )


def _calls(calls, where):
  if not isinstance(calls, list):
    raise errors.ConfigError(
      where, f'is {json_files.short(calls)}', legal='a list of calls'
    )
  return [_call(call, f'{where}[{i}]') for i, call in enumerate(calls)]


def _call(call, where):
  """Returns a tool call as {name, arguments}, with arguments unchanged."""
  legal = '{"name": "tool", "arguments": {"name": "value"}}'
  function = call.get('function') if isinstance(call, Mapping) else None
  call = function or call
  if not isinstance(call, Mapping) or 'name' not in call:
    raise errors.ConfigError(where, f'is {json_files.short(call)}', legal=legal)
  arguments = call.get('arguments')
  arguments = {} if arguments is None else arguments
  parsed = arguments
  if isinstance(arguments, str):
    data = text(arguments, f'{where}.arguments').encode('utf-8')
    parsed = json_files.parse(data, f'{where}.arguments', legal)
  if not isinstance(parsed, Mapping) or not _is_json(parsed):
    raise errors.ConfigError(
      f'{where}.arguments', f'is {json_files.short(arguments)}', legal=legal
    )
  return {'name': text(call['name'], f'{where}.name'), 'arguments': arguments}


def _is_json(value) -> bool:
  """Returns whether JSON can represent a value, unlike Parquet's dates, NaN."""
  try:
    json.dumps(value, allow_nan=False)
  except (TypeError, ValueError):
    return False
  return True


def parse(
  data: str, where: str, loader: loading.Loader | None = None
) -> list[Message]:
  """Parses a chat in JSON; see `check`."""
  legal = f'a JSON list of {_LEGAL}'
  read = json_files.parse(data.encode('utf-8'), where, legal)
  return check(read, where, loader)


def dump(messages: list[Message]) -> str:
  """Returns messages as JSON for `parse`."""
  return json.dumps([*map(image_parts.restored, messages)], ensure_ascii=False)
