"""Decodes images to the pixels that a vision tower takes.

Matches Gemma 3's image processor in transformers within one level per pixel:
images are resized with antialiased bilinear interpolation, regardless of their
proportions. They are rotated according to their EXIF data, as by transformers'
load_image, and transparent pixels are blended with white.
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

# No other formats: Pillow runs external programs for some of them.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'GIF', 'BMP')
MOST_PIXELS = 89_000_000  # per image, before it is resized
MOST_BYTES = 64 << 20  # per image file
LEGAL = (
  f'a complete image ({", ".join(FORMATS)}) of at most {MOST_PIXELS:,} pixels '
  f'and {MOST_BYTES >> 20} MiB'
)

# Parameters of pan and scan in Gemma 3's processor.
_CROP_RATIO = 1.2  # width to height, or height to width
_MOST_CROPS = 4
_SHORTEST_CROP = 256  # pixels


# Limits concurrent decoding over all threads: a large image takes a GB.
_DECODERS = min(8, os.cpu_count() or 1)
_decoding = threading.BoundedSemaphore(_DECODERS)


def _after_fork():
  """Resets the semaphore, which the parent's threads may have held."""
  global _decoding
  _decoding = threading.BoundedSemaphore(_DECODERS)


os.register_at_fork(after_in_child=_after_fork)


def check(data: bytes, where: str, most_pixels: int = MOST_PIXELS) -> None:
  """Raises ConfigError unless all of an image can be decoded.

  Args:
    data: content of the image file.
    where: the file and row, for messages.
    most_pixels: maximum number of pixels; larger images are not decoded.
  """
  _opened(data, where, most_pixels)
  with _decoding:
    upright(data, where)


def size(data: bytes, where: str = 'image') -> tuple[int, int]:
  """Returns an image's width and height after EXIF rotation.

  Args:
    data: content of the image file.
    where: name of the image, for messages.
  """
  image = _opened(data, where)
  turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
  return image.size[::-1] if turned else image.size


def crops(width: int, height: int) -> list[tuple[int, int, int, int]]:
  """Returns the crops that Gemma 3's pan and scan adds to an image.

  Args:
    width: width of the image in pixels.
    height: height of the image in pixels.

  Returns:
    (left, top, right, bottom) of each crop; [] for an image that is nearly
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
    data: content of the image file.
    side: S, width and height of the result in pixels.
    crop: 0 for the whole image, or the 1-based index of one of `crops`.
    where: name of the image, for messages.

  Returns:
    uint8 [S, S, 3], RGB.

  Raises:
    ConfigError: the image cannot be decoded.
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
  """Opens an image and reads its header."""
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
  """Returns an image as RGB, rotated according to its EXIF data.

  Args:
    data: content of the image file.
    where: name of the image, for messages.

  Raises:
    ConfigError: the image cannot be decoded.
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
