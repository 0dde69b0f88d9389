"""Pixels against a resize in float64, and rejected images."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from kd.core import errors
from kd.images import loading
from kd.images import pictures

_SIDE = 28


def _weights(size):
  """Returns antialiased bilinear weights [_SIDE, size], in float64."""
  scale = size / _SIDE
  support = max(scale, 1.0)
  centers = (np.arange(_SIDE)[:, None] + 0.5) * scale
  distance = np.abs(np.arange(size) + 0.5 - centers) / support
  weights = np.maximum(1 - distance, 0)
  return weights / weights.sum(1, keepdims=True)


def _reference(array):
  """Resizes [H, W, 3] to [_SIDE, _SIDE, 3]."""
  down, across = _weights(array.shape[0]), _weights(array.shape[1])
  return np.einsum('ih,hwc,jw->ijc', down, array, across, optimize=True)


def _noise(width, height, channels=3):
  shape = (height, width, channels) if channels > 1 else (height, width)
  noise = np.random.default_rng(width).integers(0, 256, shape)
  return noise.astype(np.uint8)


def _file(image, kind, **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _turned():
  image = Image.fromarray(_noise(40, 30))
  exif = Image.Exif()
  exif[0x0112] = 6  # The camera was turned: rotate by 270 degrees.
  return _file(image, 'JPEG', exif=exif, quality=100, subsampling=0)


def _on_white():
  array = _noise(50, 40, 4)
  part = array[..., 3:] / 255
  return array, array[..., :3] * part + 255 * (1 - part)


_CASES = {
  'png': (_file(Image.fromarray(_noise(100, 60)), 'PNG'), _noise(100, 60)),
  'enlarged': (_file(Image.fromarray(_noise(9, 11)), 'PNG'), _noise(9, 11)),
  'one': (_file(Image.fromarray(_noise(1, 1)), 'PNG'), _noise(1, 1)),
  'wide': (_file(Image.fromarray(_noise(10000, 3)), 'PNG'), _noise(10000, 3)),
  'webp': (
    _file(Image.fromarray(_noise(64, 64)), 'WEBP', lossless=True),
    _noise(64, 64),
  ),
  'gray': (
    _file(Image.fromarray(_noise(33, 44, 1)), 'PNG'),
    np.repeat(_noise(33, 44, 1)[..., None], 3, -1),
  ),
  'alpha': (_file(Image.fromarray(_on_white()[0]), 'PNG'), _on_white()[1]),
}


@pytest.mark.parametrize('name', _CASES)
def test_pixels_are_within_a_level_of_a_resize_in_float64(name):
  data, array = _CASES[name]
  ours = pictures.pixels(data, _SIDE).astype(np.float64)
  # Rounded once after each of the two directions.
  assert np.abs(ours - _reference(array.astype(np.float64))).max() <= 1.51


def test_exif_turns_the_image_and_its_size():
  data = _turned()
  assert pictures.size(data) == (30, 40)
  upright = np.rot90(np.asarray(Image.open(io.BytesIO(data))), -1)
  ours = pictures.pixels(data, _SIDE).astype(np.float64)
  assert np.abs(ours - _reference(upright.astype(np.float64))).max() <= 1.51


def test_crops_cover_long_images():
  assert pictures.crops(1000, 900) == []
  assert pictures.crops(400, 200) == []  # Crops of 200 are too small.
  assert pictures.crops(1000, 400) == [
    (0, 0, 334, 400),
    (334, 0, 668, 400),
    (668, 0, 1000, 400),
  ]
  assert len(pictures.crops(256, 4000)) == 4


def _bomb():
  """A PNG file of some bytes that says it has 10^10 pixels."""
  head = struct.pack('>IIBBBBB', 100_000, 100_000, 8, 2, 0, 0, 0)
  chunk = b'IHDR' + head
  crc = struct.pack('>I', zlib.crc32(chunk))
  return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', len(head)) + chunk + crc


@pytest.mark.parametrize(
  ('data', 'told'),
  [
    (b'', 'is not an image'),
    (b'%PDF-1.7 no picture', 'is not an image'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'is not an image'),
    (_bomb(), 'bomb|pixels'),
    (_turned()[:-200], 'damaged'),
    (_CASES['webp'][0][:-500], 'damaged|not an image'),
  ],
)
def test_invalid_and_truncated_images_are_refused(data, told):
  with pytest.raises(errors.ConfigError, match=told) as e:
    loading.Loader().load(data, 'a.jsonl:3: image')
  assert 'a.jsonl:3: image' in str(e.value)


def test_images_of_requests_cannot_name_files_or_urls(tmp_path):
  (tmp_path / 'a.png').write_bytes(_CASES['png'][0])
  inside = loading.Loader(str(tmp_path))
  assert inside.load('a.png', '') == _CASES['png'][0]
  for part in ('a.png', str(tmp_path / 'a.png'), 'http://localhost/a.png'):
    with pytest.raises(errors.ConfigError, match='file|URL'):
      loading.Loader().load({'type': 'image', 'path': part}, 'request')
