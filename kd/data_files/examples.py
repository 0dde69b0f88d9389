"""Converts a row of a file to an example."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.data_files import chats
from kd.images import loading

Example = dict[str, Any]

_LEGAL = (
  'prompt and completion, messages (a list of {"role": "user", "content": '
  '"text"}), or text'
)


@dataclasses.dataclass(frozen=True)
class Columns:
  """A file's column names for the parts of an example.

  seqio's names `inputs` and `targets` are accepted in place of the default
  names of prompt and completion.
  """

  prompt: str = 'prompt'
  completion: str = 'completion'
  messages: str = 'messages'
  text: str = 'text'
  id: str = 'id'
  weight: str = 'weight'
  rationale: str = 'rationale'
  tools: str = 'tools'
  role: str = 'role'
  content: str = 'content'
  images: str = 'images'


_PLAIN_PAIR = {'prompt', 'completion'}
_SYNONYMS = {'prompt': 'inputs', 'completion': 'targets'}


def example(
  row: Mapping[str, Any],
  where: str,
  columns: Columns,
  default_id: str,
  loader: loading.Loader | None = None,
) -> Example:
  """Returns the example of a row to train on.

  Args:
    row: row of the file.
    where: the file and line, for messages.
    columns: names of the file's columns.
    default_id: id of the example if the row has none.
    loader: reads images; None: only inline images.

  Returns:
    An example in the format of examples.stream in kd/input_pipeline.

  Raises:
    ConfigError: a column is missing or invalid, or no message is trained on.
  """
  fields = _fields(row, where, columns)
  whole = {'id': _id(fields, where, default_id)}
  row_weight = chats.weight(fields.get('weight', 1), f'{where}: weight')
  if 'text' in fields and fields.get('images'):
    raise errors.ConfigError(
      f'{where}: {columns.images}',
      'are given, but a text has no place for them',
      legal="messages or prompt, or data.columns.images='' to ignore them",
    )
  for kind in ('messages', 'text'):
    if kind in fields and fields.get('rationale'):
      raise errors.ConfigError(
        f'{where}: {columns.rationale}',
        f'is given, but {kind} has no such column',
        legal="the key 'rationale' of a message, or data.columns.rationale='' "
        'to ignore the column',
      )
  if 'text' in fields:
    whole['text'] = chats.text(fields['text'], f'{where}: text')
    if row_weight != 1:
      raise errors.ConfigError(
        f'{where}: weight', f'is {row_weight:g}', legal='1 with text'
      )
    return whole
  if fields.keys() - {'id'} == _PLAIN_PAIR:
    # Most rows. `chats.check` would check nothing else.
    question, answer = fields['prompt'], fields['completion']
    if isinstance(question, str) and isinstance(answer, str):
      return whole | {
        'inputs': chats.text(question, f'{where}: prompt'),
        'targets': chats.text(answer, f'{where}: completion'),
        'rationale': '',
      }
  chat = _messages(fields, where, columns, loader)
  for message in chat:
    message['weight'] *= row_weight
  chats.check_trained(chat, where)
  if _is_pair(chat) and isinstance(fields.get('prompt'), str):
    question, answer = chat
    return whole | {
      'inputs': question['content'],
      'targets': answer['content'],
      'rationale': answer.get('rationale', ''),
    }
  return whole | {'messages': chat}


def _is_pair(chat):
  if [message['role'] for message in chat] != ['user', 'assistant']:
    return False
  if 'images' in chat[0]:
    return False
  return chat[1]['weight'] == 1 and 'tool_calls' not in chat[1]


def prompt(
  row: Mapping[str, Any],
  where: str,
  columns: Columns,
  loader: loading.Loader | None = None,
) -> list[chats.Message]:
  """Returns the messages of a row that a model should continue.

  An answer in `completion` or in the last message is left out.

  Raises:
    ConfigError: a column is missing or invalid.
  """
  fields = _fields(row, where, columns, generate=True)
  fields.pop('completion', None)
  asked = fields.get('prompt')
  is_text = isinstance(asked, str) and not fields.get('images')
  if is_text:  # May be empty: the model then generates without a prompt.
    return [
      {'role': 'user', 'content': chats.text(asked, f'{where}: prompt', True)}
    ]
  chat = _messages(fields, where, columns, loader)
  if chat[-1]['role'] == 'assistant':
    chat.pop()
  return chat


@functools.cache
def _names(columns):
  """Returns kd's name of each column, the file's name and a synonym or ''."""
  names = []
  for field in dataclasses.fields(columns):
    column = getattr(columns, field.name)
    synonym = _SYNONYMS.get(field.name, '') if column == field.default else ''
    names.append((field.name, column, synonym))
  return names


def _fields(row, where, columns, generate=False):
  """Returns the values of a row by kd's names of the columns."""
  fields = {}
  for name, column, synonym in _names(columns):
    value = row.get(column)
    if value is None and synonym:
      value = row.get(synonym)
    if value is not None:
      fields[name] = value
  if 'messages' in fields and 'completion' not in fields:
    fields.pop('prompt', None)  # Some data sets repeat the first message here.
  if generate:
    fields.pop('text', None)
  if fields.get('tools'):
    raise errors.ConfigError(
      f'{where}: {columns.tools}',
      'lists tools, which no template writes',
      legal='the tools described in the system text (docs/data.md), and '
      "data.columns.tools=''",
    )
  kinds = [kind for kind in ('prompt', 'messages', 'text') if kind in fields]
  if not kinds:
    wanted = [columns.prompt, columns.messages, columns.text]
    wanted = wanted[:2] if generate else wanted
    near = [errors.nearest(str(key), wanted) for key in row]
    raise errors.ConfigError(
      where,
      f'has {_keys(row)}, but none of {", ".join(wanted)}',
      legal=f'{_LEGAL}; data.columns renames',
      nearest=next(filter(None, near), ''),
    )
  if len(kinds) > 1:
    raise errors.ConfigError(
      where,
      f'has {" and ".join(kinds)}',
      legal=f"one of them; data.columns.{kinds[0]}='' ignores that column",
    )
  if kinds == ['prompt'] and 'completion' not in fields and not generate:
    near = [errors.nearest(str(key), [columns.completion]) for key in row]
    raise errors.ConfigError(
      where,
      f'has {_keys(row)}, but no {columns.completion}',
      legal=f'{_LEGAL}; data.columns renames',
      nearest=next(filter(None, near), ''),
    )
  return fields


def _keys(row):
  return ', '.join(json_files.short(key) for key in row) or 'no column'


def _id(fields, where, default_id):
  value = fields.get('id', default_id)
  if isinstance(value, bool) or not isinstance(value, str | int):
    raise errors.ConfigError(
      f'{where}: id', f'is {json_files.short(value)}', legal='text or a number'
    )
  return chats.text(str(value), f'{where}: id')


def _messages(fields, where, columns, loader):
  images = _images(fields)
  if 'messages' in fields:
    messages = _renamed(fields['messages'], columns)
    return chats.check(messages, where, loader, images)
  prompt_, completion = fields['prompt'], fields.get('completion')
  chat = (
    [_asked(chats.text(prompt_, f'{where}: prompt'), images)]
    if isinstance(prompt_, str)
    else _turns(prompt_, f'{where}: prompt', columns)
  )
  if isinstance(completion, list):
    if 'rationale' in fields:
      raise errors.ConfigError(
        f'{where}: {columns.rationale}',
        f'is given, but {columns.completion} is a list of messages',
        legal="the key 'rationale' of one of these messages",
      )
    chat = [*chat, *_turns(completion, f'{where}: completion', columns)]
  elif completion is not None:
    said = chats.text(completion, f'{where}: completion')
    answer = {'role': 'assistant', 'content': said}
    answer |= {k: fields[k] for k in ('rationale',) if k in fields}
    chat = [*chat, answer]
  return chats.check(chat, where, loader, images)


def _asked(text, images):
  """Returns a user message with the images before the text."""
  if not images:
    return {'role': 'user', 'content': text}
  parts = [{'type': 'image'}] * len(images) + [{'type': 'text', 'text': text}]
  return {'role': 'user', 'content': parts}


def _images(fields):
  """Returns the images of a row, whose column holds a list or a single one."""
  images = fields.get('images') or []
  return images if isinstance(images, list) else [images]


def _turns(value, where, columns):
  if not isinstance(value, list):
    raise errors.ConfigError(
      where, f'is {json_files.short(value)}', legal='text or a list of messages'
    )
  return _renamed(value, columns)


def _renamed(messages, columns):
  """Returns messages with kd's names for role and content."""
  names = {columns.role: 'role', columns.content: 'content'}
  if not isinstance(messages, list) or set(names) == set(names.values()):
    return messages
  return [
    {names.get(key, key): value for key, value in message.items()}
    if isinstance(message, Mapping)
    else message
    for message in messages
  ]
