"""Handles the images in message contents."""

import base64
from collections.abc import Callable, Iterator, Mapping
import hashlib
from typing import Any

from kd.core import errors
from kd.images import loading
from kd.models import chat_turns

_TYPES = ('image', 'image_url')


def is_image(part: Any) -> bool:
  """Returns whether a part of a message's content is an image."""
  return isinstance(part, Mapping) and part.get('type') in _TYPES


def load(
  content: Any,
  role: str,
  where: str,
  loader: loading.Loader,
  waiting: Iterator[Any],
) -> list[str]:
  """Returns the image files of a message's content, in base64.

  Args:
    content: content in a user's file: text or a list of parts.
    role: role of the message.
    where: the file, line and message, for errors.
    loader: reads images.
    waiting: images for the parts that do not contain or name one.

  Raises:
    ConfigError: an image is missing, damaged or not in a user message.
  """
  parts = filter(is_image, content if isinstance(content, list) else ())
  files = []
  for number, part in enumerate(parts):
    if role != 'user':
      raise errors.ConfigError(
        f'{where}.content',
        f'found an image in a message of role {role}',
        legal='images in user messages',
      )
    at = f'{where}.content: image {number + 1}'
    value: Any = part
    if not any(part.get(key) is not None for key in loading.KEYS):
      value = next(waiting, None)
      if value is None:
        raise errors.ConfigError(
          at, 'names no image', legal=f'{loading.LEGAL}, or a column of images'
        )
    files.append(base64.b64encode(loader.load(value, at)).decode())
  return files


def name_recorder(
  names: dict[str | bytes, str],
) -> Callable[[str | bytes, bytes], None]:
  """Returns a `given` callback for loading.Loader that fills `names`."""

  def note(value, data):
    names[value] = f'sha256:{hashlib.sha256(data).hexdigest()}'

  return note


def by_name(value: Any, names: Mapping[str | bytes, str]) -> Any:
  """Returns a row with its inline images replaced by their names.

  Args:
    value: a row of a user's file, or a value in it.
    names: names of images by their text or bytes, see `name_recorder`.
  """
  if isinstance(value, str | bytes):
    return names.get(value, value)
  if isinstance(value, Mapping):
    return {key: by_name(x, names) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [by_name(x, names) for x in value]
  return value


def restored(message: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns a checked message with the images back in its content."""
  images = chat_turns.images(message)
  if not images:
    return message
  first, *rest = message['content'].split(chat_turns.IMAGE)
  parts = [{'type': 'text', 'text': first}]
  for image, said in zip(images, rest, strict=True):
    parts.append({'type': 'image', 'base64': image})
    parts.append({'type': 'text', 'text': said})
  kept = {key: x for key, x in message.items() if key != 'images'}
  return kept | {'content': [p for p in parts if p.get('text') != '']}
