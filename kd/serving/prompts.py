"""Reads the prompts of requests: chats, texts, token ids."""

import base64
from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from kd.config import legal
from kd.core import errors
from kd.data_files import image_parts
from kd.images import loading
from kd.models import chat_turns
from kd.sampling import images as images_lib
from kd.serving import served_model


class Prompt(NamedTuple):
  """A prompt of a request.

  Attributes:
    ids: token ids.
    text: the text that `echo` returns.
    images: decoded images.
  """

  ids: tuple[int, ...]
  text: str
  images: tuple[images_lib.Image, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImageLimits:
  """Limits of the images of a request.

  Attributes:
    images: maximum number of images, including crops.
    pixels: maximum number of pixels of an image before it is resized.
    urls: whether to download images given by URL.
  """

  images: int
  pixels: int
  urls: bool


def checked(path: str, legal_: legal.Legal, value: Any) -> Any:
  """Returns the value of a field in its canonical form.

  Raises:
    ConfigError: the value is not legal.
  """
  fault = legal_.fault(value)
  if fault:
    raise errors.ConfigError(path, fault, legal=legal_.text)
  return legal_.normal(value)


def chat(
  messages: Any, model: served_model.ServedModel, limits: ImageLimits
) -> Prompt:
  """Reads the messages of a chat and encodes them as --mode=generate does.

  Args:
    messages: the field of the request.
    model: the model that answers.
    limits: limits of the images.

  Raises:
    ConfigError: a part is invalid; the error names it.
  """
  if not isinstance(messages, list) or not messages:
    raise errors.ConfigError(
      'messages',
      f'found {legal.shown(messages)}',
      legal='a list of {"role": "user", "content": "text"}',
    )
  # Counted before any image is decoded.
  places = [*_image_places(messages)]
  count = len(places)
  if places and model.run.image_form is None:
    raise errors.ConfigError(
      places[0], 'is an image', legal='text: the model reads no images'
    )
  if count > limits.images:
    raise _too_many(count, limits)
  loader = loading.Loader(None, limits.urls, most_pixels=limits.pixels)
  read = [_message(m, f'messages[{i}]', loader) for i, m in enumerate(messages)]
  if count:
    _check_anchors(read, count)
  form = model.run.image_form
  ids, images = images_lib.encode(model.tokenizer, model.template, read, form)
  if len(images) > limits.images:  # With the crops of pan and scan.
    raise _too_many(len(images), limits)
  # Decoded here, because the scheduler's thread is busy with other answers, and
  # at the model's size, so that memory does not depend on the client's files.
  decoded = (
    dataclasses.replace(image, data=image.pixels(form.size)) for image in images
  )
  return Prompt(tuple(ids), '', tuple(decoded))


def _image_places(messages):
  """Yields the path of each image in the messages."""
  for i, message in enumerate(messages):
    content = message.get('content') if isinstance(message, dict) else None
    for j, part in enumerate(content if isinstance(content, list) else ()):
      if image_parts.is_image(part):
        yield f'messages[{i}].content[{j}]'


def _check_anchors(messages, count):
  if sum(m['content'].count(chat_turns.IMAGE) for m in messages) > count:
    raise errors.ConfigError(
      'messages',
      'contain a null character (U+0000) in text with images',
      legal='text without null characters',
    )


def _too_many(count, limits):
  return errors.ConfigError(
    'messages',
    f'have {count} images',
    legal=f'at most {limits.images} (serve.max_images)',
  )


def _message(message, path, loader) -> dict[str, Any]:
  if not isinstance(message, dict):
    raise errors.ConfigError(
      path, f'found {legal.shown(message)}', legal='an object'
    )
  for name, value in message.items():
    # `name`, and empty fields that clients send back with answers, are ignored.
    if name not in ('role', 'content') and value and name != 'name':
      raise errors.unknown(f'{path}.{name}', 'field', name, ['role', 'content'])
  role = checked(f'{path}.role', legal.TEXT, message.get('role'))
  # OpenAI's newer name of the role.
  role = 'system' if role == 'developer' else role
  content = message.get('content')
  files: list[str] = []
  if isinstance(content, list):
    parts = [(p, f'{path}.content[{i}]') for i, p in enumerate(content)]
    files = [
      _file(part, role, where, loader)
      for part, where in parts
      if image_parts.is_image(part)
    ]
    content = ''.join(_part(part, where) for part, where in parts)
  content = checked(f'{path}.content', legal.TEXT, content)
  read = {'role': role, 'content': content}
  return read | {'images': files} if files else read


def _file(part, role, path, loader) -> str:
  """Returns the file of an image part, in base64."""
  if role != 'user':
    raise errors.ConfigError(
      path, f'found an image of role {role}', legal='images of the user'
    )
  return base64.b64encode(loader.load(part, path)).decode()


def _part(part, path) -> str:
  if image_parts.is_image(part):
    return chat_turns.IMAGE
  if not isinstance(part, Mapping) or part.get('type') != 'text':
    raise errors.ConfigError(
      path,
      f'found {legal.shown(part)}',
      legal='{"type": "text", "text": "..."}, or {"type": "image_url", '
      '"image_url": {"url": "data:image/png;base64,..."}}',
    )
  return checked(f'{path}.text', legal.TEXT, part.get('text'))


def completions(value: Any, model: served_model.ServedModel) -> list[Prompt]:
  """Reads prompts of /v1/completions, without a chat template.

  Args:
    value: the field of the request; BOS is added to text, but not to ids.
    model: the model that answers.

  Raises:
    ConfigError: a part is invalid; the error names it.
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
  return Prompt(ids, text)


def _ids_prompt(ids, path, model):
  size = model.tokenizer.vocab_size
  for i, index in enumerate(ids):
    if not 0 <= index < size:
      raise errors.ConfigError(
        f'{path}[{i}]', f'found {index}', legal=f'a token id, 0 to {size - 1}'
      )
  return Prompt(tuple(ids), model.tokenizer.decode(ids))
