"""Reads the images of messages, given as bytes, base64, paths or URLs."""

import base64
import binascii
from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import Any

from kd.core import errors
from kd.core import json_files
from kd.images import pictures

LEGAL = (
  '{"type": "image", "path": "FILE"}, with "base64" or "bytes" in place of '
  '"path", or {"type": "image_url", "image_url": {"url": "data:image/..."}}'
)
KEYS = ('image', 'path', 'base64', 'bytes', 'url', 'image_url')
_URLS = ('http://', 'https://')
_URL_BYTES = tuple(url.encode() for url in _URLS)
_TIMEOUT_S = 30  # for a whole download
_MOST_DEPTH = 2  # {"image_url": {"url": ...}}


# Receives the path or URL of an image and the content of its file.
Opened = Callable[[str, bytes], None]


def is_url(name: str) -> bool:
  """Returns whether the name of an image is an http: or https: URL."""
  return name.startswith(_URLS)


@dataclasses.dataclass(frozen=True)
class Loader:
  """Loads images from the allowed sources.

  Attributes:
    folder: base of relative paths; None if messages cannot name files.
    urls: whether images are downloaded.
    opened: called with the path or URL of each image and the content of its
      file.
    given: called with each inline image (bytes, base64 or a data: URL) and the
      content of its file.
    deferred: called with each URL instead of downloading it; the URL then
      replaces the content of the file. None: URLs are downloaded.
    most_pixels: maximum number of pixels of an image.
  """

  folder: str | None = None
  urls: bool = False
  opened: Opened = lambda name, data: None
  given: Callable[[str | bytes, bytes], None] = lambda value, data: None
  deferred: Callable[[str], None] | None = None
  most_pixels: int = pictures.MOST_PIXELS

  def load(self, value: Any, where: str) -> bytes:
    """Returns the content of an image file, checked.

    Args:
      value: bytes, a path, a data: URL, an http: or https: URL (if `urls` is
        set), or a mapping that contains one of these, as in a part of a message
        or a Hugging Face column.
      where: the file, row and message, for errors.

    Raises:
      ConfigError: there is no such image, or it cannot be decoded.
    """
    data = self._data(value, where)
    if self.deferred is None or not data.startswith(_URL_BYTES):
      pictures.check(data, where, self.most_pixels)
    return data

  def _data(self, value, where, depth=0) -> bytes:
    if isinstance(value, bytes):
      self.given(value, value)
      return value
    if isinstance(value, str):
      return self._named(value, where)
    if isinstance(value, Mapping) and depth < _MOST_DEPTH:
      if value.get('base64') is not None:
        return self._inline(value['base64'], value['base64'], where)
      # Bytes first: the path next to them in a column need not exist.
      for key in ('bytes', *KEYS):
        if value.get(key) is not None:
          return self._data(value[key], where, depth + 1)
    raise errors.ConfigError(
      where, f'is {json_files.short(value)}', legal=LEGAL
    )

  def _named(self, name, where) -> bytes:
    if name.startswith('data:'):
      head, comma, data = name.partition(',')
      if not comma or not head.endswith(';base64'):
        raise errors.ConfigError(
          where, f'is {json_files.short(name)}', legal='data:...;base64,...'
        )
      return self._inline(data, name, where)
    if is_url(name):
      if not self.urls:
        raise errors.ConfigError(
          where,
          f'is {json_files.short(name)}, but URLs are not read',
          legal='data.images.urls=True, or the image itself',
        )
      if self.deferred is not None:
        self.deferred(name)
        return name.encode()
      data = _download(name, where)
      self.opened(name, data)
      return data
    if self.folder is None:
      raise errors.ConfigError(
        where,
        f'names the file {json_files.short(name)}, but files are not '
        'allowed here',
        legal='the image itself, as base64',
      )
    path = os.path.join(self.folder, os.path.expanduser(name))
    try:
      if os.path.getsize(path) > pictures.MOST_BYTES:
        raise errors.ConfigError(
          where, f'{path} is too large', legal=pictures.LEGAL
        )
      with open(path, 'rb') as f:
        data = f.read()
    except (OSError, ValueError) as e:
      reason = getattr(e, 'strerror', None) or str(e)
      raise errors.ConfigError(
        where,
        f'{path} cannot be read: {reason}',
        legal='an image; relative paths begin at the folder of the data file',
      ) from e
    self.opened(os.path.abspath(path), data)
    return data

  def _inline(self, text, value, where) -> bytes:
    """Returns the file that `text`, the base64 part of `value`, encodes."""
    data = _of_base64(text, where)
    self.given(value, data)
    return data


def _of_base64(text: Any, where: str) -> bytes:
  try:
    return base64.b64decode(text, validate=True)
  except (TypeError, ValueError, binascii.Error) as e:
    raise errors.ConfigError(where, f'is not base64: {e}', legal=LEGAL) from e


def _download(url: str, where: str) -> bytes:
  import http.client

  from kd.images import downloads

  try:
    return downloads.read(url, pictures.MOST_BYTES + 1, _TIMEOUT_S)
  except (OSError, ValueError, http.client.HTTPException) as e:
    raise errors.ConfigError(
      where,
      f'{url} cannot be read: {e}',
      legal=f'a URL that answers within {_TIMEOUT_S} s',
    ) from e
