"""The images among the parts of a message's content."""

import base64
from collections.abc import Callable, Iterator, Mapping
import hashlib
from typing import Any

from kd.core import errors
from kd.images import loading
from kd.models import chat_turns

_TYPES = ('image', 'image_url')


def is_image(part: Any) -> bool:
  """Returns whether a part of a content is an image."""
  return isinstance(part, Mapping) and part.get('type') in _TYPES


def load(
  content: Any,
  role: str,
  where: str,
  loader: loading.Loader,
  waiting: Iterator[Any],
) -> list[str]:
  """Returns the files of a content's images, in base64.

  Args:
    content: as a user's file has it: text, or a list of parts.
    role: who says it.
    where: the file, line and message, for errors.
    loader: reads images.
    waiting: the images of the parts that name none.

  Raises:
    ConfigError: an image is missing or damaged, or not a user's.
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


def noting(
  names: dict[str | bytes, str],
) -> Callable[[str | bytes, bytes], None]:
  """Returns `given` of a loading.Loader, which fills `names` for by_name."""

  def note(value, data):
    names[value] = f'sha256:{hashlib.sha256(data).hexdigest()}'

  return note


def by_name(value: Any, names: Mapping[str | bytes, str]) -> Any:
  """Returns a row that names the images which it has in itself.

  Args:
    value: a row as a user's file has it, or what is in it.
    names: by the text or bytes of an image.
  """
  if isinstance(value, str | bytes):
    return names.get(value, value)
  if isinstance(value, Mapping):
    return {key: by_name(x, names) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [by_name(x, names) for x in value]
  return value


def restored(message: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns a checked message whose images are parts of its content again."""
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
