"""Inserts the tokens of images into chats, as in Gemma 3's processor."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kd.core import errors
from kd.images import form as form_lib
from kd.images import pictures
from kd.input_pipeline import tokenizers
from kd.models import chat_turns

_BLOCK = f'\n\n{chat_turns.IMAGE}\n\n'


class Slot(NamedTuple):
  """An image of a row.

  Attributes:
    data: content of the image file.
    crop: 0 for the whole image, or the 1-based index of one of pictures.crops.
  """

  data: bytes
  crop: int = 0


def slots(
  messages: Sequence[chat_turns.Message], form: form_lib.Form | None
) -> list[list[Slot]]:
  """Returns the images of a chat, each followed by its crops.

  Args:
    messages: the messages of the chat, see templates.render.
    form: format of the model's images; None if it takes none.

  Raises:
    ConfigError: the chat has images, and the model takes none.
  """
  files = map(base64.b64decode, _files(messages, form))
  return [
    [Slot(data, crop) for crop in range(_crops(data, form) + 1)]
    for data in files
  ]


def crops(
  messages: Sequence[chat_turns.Message], form: form_lib.Form | None
) -> list[int]:
  """Returns the number of crops of each image of a chat; see `slots`."""
  files = _files(messages, form)
  if not files or not form.pan_and_scan:
    return [0] * len(files)
  return [_crops(base64.b64decode(file), form) for file in files]


def _files(messages, form):
  files = [x for message in messages for x in chat_turns.images(message)]
  if files and form is None:
    raise errors.ConfigError(
      'messages',
      'contain images, but no model of this run supports images',
      legal="student.vision or teacher.vision 'own', or messages of text",
    )
  return files


def _crops(data, form):
  if not form.pan_and_scan:
    return 0
  return len(pictures.crops(*pictures.size(data)))


def expand(
  text: str, turns: Sequence[chat_turns.Turn], crops: Sequence[int]
) -> tuple[str, list[chat_turns.Turn]]:
  """Inserts the text that Gemma 3's processor adds around images.

  Args:
    text: a text of templates.render, with an IMAGE for each image.
    turns: the model's turns in the text.
    crops: number of crops of each image.

  Returns:
    The text with an IMAGE for each image and crop, and the turns in that text.
  """
  first, *rest = text.split(chat_turns.IMAGE)
  expanded, old, places, added = first, len(first), [], [0]
  for count, piece in zip(crops, rest, strict=True):
    written = _written(count)
    places.append(old)
    added.append(added[-1] + len(written) - 1)
    expanded += written + piece
    old += 1 + len(piece)

  def moved(place):
    return place + added[int(np.searchsorted(places, place))]

  return expanded, [
    turn._replace(
      begin=moved(turn.begin), answer=moved(turn.answer), end=moved(turn.end)
    )
    for turn in turns
  ]


def _written(crops: int) -> str:
  if not crops:
    return _BLOCK
  return (
    f'Here is the original image {_BLOCK} and here are some crops to help you '
    f'see better {" ".join([_BLOCK] * crops)}'
  )


def encode(
  tokenizer: tokenizers.Tokenizer, text: str, form: form_lib.Form
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ids of a text with images, and their characters.

  Args:
    tokenizer: a tokenizer with image_ids.
    text: a text with an IMAGE for each image. The texts between images are
      encoded separately, so that they do not merge with the images' tokens.
    form: format of the model's images.

  Returns:
    The ids and offsets, see tokenizers.Tokenizer.encode_with_offsets. The ids
    of an image have the offsets of its IMAGE.

  Raises:
    ConfigError: the text itself contains a soft token.
  """
  start, soft, end = tokenizer.image_ids
  image = np.array([start, *[soft] * form.tokens, end], np.int32)
  ids, offsets, begin = [], [], 0
  for number, piece in enumerate(text.split(chat_turns.IMAGE)):
    if number:
      ids.append(image)
      offsets.append(np.tile(np.int32([begin - 1, begin]), (len(image), 1)))
    piece_ids, piece_offsets = tokenizer.encode_with_offsets(piece)
    if soft in piece_ids:
      raise errors.ConfigError(
        'messages',
        f'contain {tokenizer.text_of(soft)!r}, which is reserved for images',
        legal='text without it',
      )
    ids.append(piece_ids)
    offsets.append(piece_offsets + begin)
    begin += len(piece) + 1
  return np.concatenate(ids), np.concatenate(offsets)
