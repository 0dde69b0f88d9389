"""Images of prompts: their positions, and the model's input arrays."""

from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from kd.core import types
from kd.images import form as form_lib
from kd.images import pictures
from kd.input_pipeline import image_tokens
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
  """An image of a prompt.

  Attributes:
    start: position of its first soft token in the prompt.
    data: the bytes of its file, decoded when the prompt is prefilled, or pixels
      uint8 [S, S, 3] of the model's size.
    crop: crop of the file; see pictures.pixels.
  """

  start: int
  data: bytes | np.ndarray
  crop: int = 0

  @property
  def key(self) -> bytes:
    """Returns the position, crop and data as bytes, for a digest."""
    return f'{self.start} {self.crop} '.encode() + bytes(self.data)

  def pixels(self, size: int) -> np.ndarray:
    """Returns the pixels, uint8 [S, S, 3].

    Raises:
      ConfigError: the file cannot be decoded.
    """
    if isinstance(self.data, np.ndarray):
      return self.data
    return pictures.pixels(self.data, size, self.crop)


def encode(
  tokenizer: tokenizers.Tokenizer,
  template: str,
  messages: Sequence[templates.Message],
  form: form_lib.Form | None,
) -> tuple[list[int], tuple[Image, ...]]:
  """Returns the ids and the images of a prompt.

  Args:
    tokenizer: the tokenizer.
    template: name of the template.
    messages: the messages; the last one is the user's.
    form: image format of the model; None if it reads no images.

  Raises:
    ConfigError: see templates.encode_prompt.
  """
  ids = templates.encode_prompt(tokenizer, template, messages, form)
  files = [*itertools.chain(*image_tokens.slots(messages, form))]
  if not files:
    return ids, ()
  starts = np.flatnonzero(np.asarray(ids) == form.soft_id)[:: form.tokens]
  return ids, tuple(
    Image(int(start), file.data, file.crop)
    for start, file in zip(starts, files, strict=True)
  )


def slots(count: int) -> int:
  """Returns the number of image slots of a program: 0, 1, 2, 4, ...

  Args:
    count: number of images of a prompt. Prompts without images use the program
      without a tower.
  """
  return 1 << (count - 1).bit_length() if count else 0


def check(ids: Sequence[int], images: Sequence[Image], vision) -> None:
  """Raises ValueError unless the images and their positions are valid.

  Args:
    ids: ids of the prompt.
    images: images of the prompt, ordered by position.
    vision: the model's VisionConfig; None if it reads no images.
  """
  if images and vision is None:
    raise ValueError('the model reads no images')
  end = 0
  for number, image in enumerate(images):
    if image.start < end:
      raise ValueError(f'image {number} begins at {image.start}, below {end}')
    end = image.start + vision.soft_tokens
  # The first decoding step processes the last id, as text.
  if images and end >= len(ids):
    raise ValueError(f'{len(ids)} ids end with an image: it needs an end mark')


def text_ids(
  ids: Sequence[int], images: Sequence[Image], vision
) -> Sequence[int]:
  """Returns the ids that are not soft tokens of an image; see `check`."""
  if not images:
    return ids
  is_text = np.ones(len(ids), bool)
  for image in images:
    is_text[image.start : image.start + vision.soft_tokens] = False
  return np.asarray(ids)[is_text].tolist()


def batch(
  prompts: Sequence[Sequence[Image]], rows: int, length: int, vision
) -> types.Images | None:
  """Returns the images of prompts that are prefilled together.

  Args:
    prompts: the images of each prompt, for at most `rows` prompts.
    rows: B.
    length: L.
    vision: the model's VisionConfig.

  Returns:
    Numpy arrays; None if no prompt has an image.

  Raises:
    ConfigError: an image cannot be decoded.
  """
  most = slots(max(map(len, prompts), default=0))
  if not most:
    return None
  size, tokens = vision.image_size, vision.soft_tokens
  pixels = np.zeros((rows, most, size, size, 3), np.uint8)
  index = np.full((rows, length), -1, np.int32)
  for row, images in enumerate(prompts):
    for number, image in enumerate(images):
      pixels[row, number] = image.pixels(size)
      places = slice(image.start, image.start + tokens)
      index[row, places] = number * tokens + np.arange(tokens)
  return types.Images(pixels, index)
