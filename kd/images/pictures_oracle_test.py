"""Pixels against transformers' Gemma 3 processor."""

import importlib.metadata
import os
import pathlib
import subprocess

import numpy as np
from PIL import Image
import pytest

from kd.images import pictures

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SCRIPT = _ROOT / 'tests' / 'oracles' / 'hf_images.py'
_SIDES = (56, 224)
_TURNED = (1, 3, 6, 7)  # Values of EXIF's orientation.


def _noise(rng, width, height, mode='RGB'):
  channels = len(Image.new(mode, (1, 1)).getbands())
  shape = (height, width, channels)[: 2 if channels == 1 else 3]
  noise = rng.integers(0, 256, shape).astype(np.uint8)
  return Image.fromarray(noise, mode)


def _write(folder):
  """Writes images of each kind: modes, formats, rotations, proportions."""
  rng = np.random.default_rng(0)
  for mode in ('L', 'LA', 'RGB', 'RGBA'):
    _noise(rng, 50, 40, mode).save(folder / f'{mode}.png')
  for kind in ('RGB', 'RGBA'):
    _noise(rng, 50, 40, kind).save(folder / f'{kind}.webp')
  _noise(rng, 1200, 900).save(folder / 'large.jpeg')
  _noise(rng, 50, 40, 'CMYK').save(folder / 'cmyk.jpeg')
  palette = _noise(rng, 50, 40).quantize(16)
  palette.save(folder / 'palette.gif')
  palette.save(folder / 'palette.png', transparency=3)
  sizes = (1, 1), (10000, 3), (3, 3000), (1000, 400), (300, 1301), (400, 300)
  for width, height in sizes:
    _noise(rng, width, height).save(folder / f'{width}x{height}.png')
  for turn in _TURNED:
    exif = Image.Exif()
    exif[0x0112] = turn
    _noise(rng, 40, 30).save(folder / f'turn{turn}.jpeg', exif=exif)


def _lend_pillow(folder):
  """Links Pillow into a folder, for the oracles' Python, which has none.

  With the same decoders in both, all differences are those of the processor.
  """
  pillow = importlib.metadata.distribution('pillow')
  for name in {file.parts[0] for file in pillow.files} - {'..'}:
    os.symlink(pillow.locate_file(name), folder / name)


@pytest.mark.skipif(
  'KD_ORACLES_PYTHON' not in os.environ,
  reason='KD_ORACLES_PYTHON names no Python with transformers',
)
def test_pixels_and_crops_equal_the_processors(tmp_path):
  images, pillow = tmp_path / 'images', tmp_path / 'pillow'
  for folder in (images, pillow):
    folder.mkdir()
  _write(images)
  _lend_pillow(pillow)
  out = tmp_path / 'out.npz'
  done = subprocess.run(
    [
      *(os.environ['KD_ORACLES_PYTHON'], _SCRIPT, images, out),
      *map(str, _SIDES),
    ],
    env=os.environ | {'PYTHONPATH': str(pillow)},
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  crops = 0
  with np.load(out) as theirs:
    assert len(theirs.files) == len(_SIDES) * len(os.listdir(images))
    for key in theirs.files:
      name, _, side = key.rpartition('.')
      data = (images / name).read_bytes()
      count = len(pictures.crops(*pictures.size(data)))
      crops += count
      assert len(theirs[key]) == count + 1, name
      for crop, expected in enumerate(theirs[key]):
        ours = pictures.pixels(data, int(side), crop).astype(np.int32)
        assert np.abs(ours - expected).max() <= 1, (key, crop)
  assert crops
