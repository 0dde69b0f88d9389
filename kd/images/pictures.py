"""Decodes images to the pixels that a vision tower reads.

Equal to Gemma 3's image processor in transformers within one level per pixel:
antialiased bilinear, whatever the proportions. An image is turned as its EXIF
data say, as transformers' load_image does, and transparent pixels are on white,
as the processor has them.
"""

import io
import itertools
import math
import os
import threading
import typing

import numpy as np

from kd.core import errors

if typing.TYPE_CHECKING:
  from PIL import Image

# Others are not decoded: some of Pillow's formats run programs.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'GIF', 'BMP')
MOST_PIXELS = 89_000_000  # of an image, before it is resized
MOST_BYTES = 64 << 20  # of an image's file
LEGAL = (
  f'a complete image ({", ".join(FORMATS)}) of at most {MOST_PIXELS:,} pixels '
  f'and {MOST_BYTES >> 20} MiB'
)

# Gemma 3's pan and scan, as its processor has it.
_CROP_RATIO = 1.2  # width to height, or height to width
_MOST_CROPS = 4
_SHORTEST_CROP = 256  # pixels


# Images that are decoded at a time, over all threads: a large one takes a GB.
_DECODERS = min(8, os.cpu_count() or 1)
_decoding = threading.BoundedSemaphore(_DECODERS)


def _after_fork():
  """Forgets what the parent's threads were decoding."""
  global _decoding
  _decoding = threading.BoundedSemaphore(_DECODERS)


os.register_at_fork(after_in_child=_after_fork)


def check(data: bytes, where: str, most_pixels: int = MOST_PIXELS) -> None:
  """Raises ConfigError unless all of an image can be decoded.

  Args:
    data: the image's file.
    where: the file and row, for messages.
    most_pixels: of the image; one with more is not decoded.
  """
  _opened(data, where, most_pixels)
  with _decoding:
    upright(data, where)


def size(data: bytes, where: str = 'image') -> tuple[int, int]:
  """Returns an image's width and height, turned as its EXIF data say.

  Args:
    data: the image's file, as `check` takes it.
    where: names it in messages.
  """
  image = _opened(data, where)
  turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
  return image.size[::-1] if turned else image.size


def crops(width: int, height: int) -> list[tuple[int, int, int, int]]:
  """Returns the parts that Gemma 3's pan and scan adds to an image.

  Args:
    width: of the image.
    height: of the image.

  Returns:
    The (left, top, right, bottom) of each; [] for an image that is nearly
    square or small.
  """
  longer, shorter = max(width, height), min(width, height)
  if longer / shorter < _CROP_RATIO:
    return []
  count = min(longer // _SHORTEST_CROP, math.floor(longer / shorter + 0.5))
  count = min(max(count, 2), _MOST_CROPS)
  wide, high = (count, 1) if width >= height else (1, count)
  across, down = math.ceil(width / wide), math.ceil(height / high)
  if min(across, down) < _SHORTEST_CROP:
    return []
  return [
    (x, y, min(x + across, width), min(y + down, height))
    for y, x in itertools.product(
      (down * i for i in range(high)), (across * i for i in range(wide))
    )
  ]


def pixels(
  data: bytes, side: int, crop: int = 0, where: str = 'image'
) -> np.ndarray:
  """Returns an image, or a crop of it, resized to a square.

  Args:
    data: the image's file.
    side: S, the width and height in pixels.
    crop: 0 for the whole image, from 1 on the number of a crop of `crops`.
    where: names it in messages.

  Returns:
    uint8 [S, S, 3], RGB.

  Raises:
    ConfigError: it cannot be decoded.
  """
  from PIL import Image

  with _decoding:
    image = upright(data, where)
    if crop:
      image = image.crop(crops(*image.size)[crop - 1])
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _opened(
  data: bytes, where: str, most_pixels: int = MOST_PIXELS
) -> 'Image.Image':
  """Returns an image whose header has been read."""
  from PIL import Image
  from PIL import UnidentifiedImageError

  if len(data) > MOST_BYTES:
    raise errors.ConfigError(where, f'has {len(data):,} bytes', legal=LEGAL)
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
  except UnidentifiedImageError as e:
    raise errors.ConfigError(where, 'is not an image', legal=LEGAL) from e
  except Exception as e:  # A decoder may raise anything.
    raise errors.ConfigError(where, f'is damaged: {e}', legal=LEGAL) from e
  width, height = image.size
  if width * height > most_pixels:
    raise errors.ConfigError(
      where,
      f'has {width:,} x {height:,} pixels',
      legal=f'at most {most_pixels:,} pixels',
    )
  return image


def upright(data: bytes, where: str = 'image') -> 'Image.Image':
  """Returns an image as RGB, turned as its EXIF data say.

  Args:
    data: the image's file.
    where: names it in messages.

  Raises:
    ConfigError: it cannot be decoded.
  """
  from PIL import Image
  from PIL import ImageOps

  image = _opened(data, where)
  try:
    image.load()
    image = ImageOps.exif_transpose(image)
    if 'A' in image.getbands() or 'transparency' in image.info:
      image = image.convert('RGBA')
      white = Image.new('RGBA', image.size, (255, 255, 255, 255))
      image = Image.alpha_composite(white, image)
    return image.convert('RGB')
  except MemoryError:
    raise
  except Exception as e:  # A decoder may raise anything.
    raise errors.ConfigError(where, f'is damaged: {e}', legal=LEGAL) from e
