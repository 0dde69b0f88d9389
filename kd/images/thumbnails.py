"""Creates thumbnails that pages embed as data URIs."""

import base64
import io

from kd.images import pictures

PREFIX = 'data:image/jpeg;base64,'
_SIDE = 128  # pixels
_QUALITY = 80


def data_uri(data: bytes) -> str:
  """Returns a thumbnail of an image as a data URI of a few thousand characters.

  Args:
    data: content of the image file.

  Raises:
    ConfigError: the image cannot be decoded.
  """
  image = pictures.upright(data)
  image.thumbnail((_SIDE, _SIDE))
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=_QUALITY)
  return PREFIX + base64.b64encode(file.getvalue()).decode()
