"""Reads the prompts of requests: chats, texts, token ids."""

from typing import Any

from kd.config import legal
from kd.core import errors
from kd.input_pipeline import templates
from kd.serving import served_model

# The ids, and the text that `echo` shows.
Prompt = tuple[tuple[int, ...], str]


def checked(path: str, legal_: legal.Legal, value: Any) -> Any:
  """Returns a field's value in its one form.

  Raises:
    ConfigError: the value is not legal.
  """
  fault = legal_.fault(value)
  if fault:
    raise errors.ConfigError(path, fault, legal=legal_.text)
  return legal_.normal(value)


def chat(messages: Any, model: served_model.ServedModel) -> Prompt:
  """Reads the messages of a chat, as --mode=generate writes them.

  Args:
    messages: the request's field.
    model: that answers.

  Raises:
    ConfigError: names the part that is wrong.
  """
  if not isinstance(messages, list) or not messages:
    raise errors.ConfigError(
      'messages',
      f'found {legal.shown(messages)}',
      legal='a list of {"role": "user", "content": "text"}',
    )
  read = [_message(m, f'messages[{i}]') for i, m in enumerate(messages)]
  ids = templates.encode_prompt(model.tokenizer, model.template, read)
  return tuple(ids), ''


def _message(message, path) -> dict[str, str]:
  if not isinstance(message, dict):
    raise errors.ConfigError(
      path, f'found {legal.shown(message)}', legal='an object'
    )
  for name, value in message.items():
    # `name` and what else clients send back with answers changes no prompt.
    if name not in ('role', 'content') and value and name != 'name':
      raise errors.unknown(f'{path}.{name}', 'field', name, ['role', 'content'])
  role = checked(f'{path}.role', legal.TEXT, message.get('role'))
  content = message.get('content')
  if isinstance(content, list):
    content = ''.join(
      _text_part(part, f'{path}.content[{i}]') for i, part in enumerate(content)
    )
  content = checked(f'{path}.content', legal.TEXT, content)
  # OpenAI's newer name of it.
  return {'role': 'system' if role == 'developer' else role, 'content': content}


def _text_part(part, path) -> str:
  if not isinstance(part, dict) or part.get('type') != 'text':
    raise errors.ConfigError(
      path,
      f'found {legal.shown(part)}',
      legal='{"type": "text", "text": "..."}',
    )
  return checked(f'{path}.text', legal.TEXT, part.get('text'))


def completions(value: Any, model: served_model.ServedModel) -> list[Prompt]:
  """Reads prompts that are continued as they stand.

  Args:
    value: the request's field; a text gets a BOS, ids are taken as they are.
    model: that answers.

  Raises:
    ConfigError: names the part that is wrong.
  """
  is_id = lambda x: isinstance(x, int) and not isinstance(x, bool)
  if isinstance(value, str):
    return [_text_prompt(value, 'prompt', model)]
  if isinstance(value, list) and value:
    if all(map(is_id, value)):
      return [_ids_prompt(value, 'prompt', model)]
    result = []
    for i, one in enumerate(value):
      path = f'prompt[{i}]'
      if isinstance(one, str):
        result.append(_text_prompt(one, path, model))
      elif isinstance(one, list) and one and all(map(is_id, one)):
        result.append(_ids_prompt(one, path, model))
      else:
        raise errors.ConfigError(
          path, f'found {legal.shown(one)}', legal='text or a list of token ids'
        )
    return result
  raise errors.ConfigError(
    'prompt',
    'not given' if value is None else f'found {legal.shown(value)}',
    legal='text, a list of token ids, or a list of either',
  )


def _text_prompt(text, path, model):
  tokenizer = model.tokenizer
  checked(path, legal.TEXT, text)
  first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  ids = (*first, *tokenizer.encode(text))
  if not ids:
    raise errors.ConfigError(path, 'has no token', legal='one or more')
  return ids, text


def _ids_prompt(ids, path, model):
  size = model.tokenizer.vocab_size
  for i, index in enumerate(ids):
    if not 0 <= index < size:
      raise errors.ConfigError(
        f'{path}[{i}]', f'found {index}', legal=f'a token id, 0 to {size - 1}'
      )
  return tuple(ids), model.tokenizer.decode(ids)
