"""Features of images are written and read back."""

import os

import ml_dtypes
import numpy as np
import pytest

from kd.core import errors
from kd.images import features

_T, _E = 3, 80  # 80 channels: five blocks of 16.


def _values(count, seed=0):
  """Returns outputs with a channel that is far larger than the others."""
  values = np.random.default_rng(seed).normal(size=(count, _T, _E))
  values[..., 7] *= 100
  values[0, 0] = 0
  return values.astype(np.float32)


def test_decoded_values_are_within_half_a_step_of_their_block(tmp_path):
  values = _values(4)
  keys = [features.key(b'%d' % i, crop) for i in (0, 1) for crop in (0, 1)]
  assert len(set(keys)) == 4
  for kind in features.KINDS:
    folder = str(tmp_path / kind)
    features.Store(folder, kind, _T, _E).add(keys[:3], values[:3])
    store = features.Store(folder, kind, _T, _E)
    store.add(keys[3:], values[3:])
    store = features.Store(folder, kind, _T, _E)
    assert len(store) == 4 and 'other' not in store
    read = np.stack([store.read(key) for key in keys]).astype(np.float64)
    error = read - values.astype(np.float64)
    if kind == features.BFLOAT16:
      expected = values.astype(ml_dtypes.bfloat16).astype(np.float64)
      np.testing.assert_array_equal(read, expected)
    else:
      blocks = np.abs(values.reshape(4, _T, 5, 16)).max(-1, keepdims=True)
      step = np.broadcast_to(blocks / 127, (4, _T, 5, 16)).reshape(error.shape)
      # The result is rounded to bfloat16.
      bound = step / 2 + np.abs(values) / 256 + 1e-7
      assert (np.abs(error) <= bound).all()
    relative = np.sqrt(np.sum(error**2) / np.sum(values.astype(float) ** 2))
    np.testing.assert_allclose(store.relative_error, relative, rtol=1e-3)
    sizes = [os.path.getsize(f'{folder}/{f}') for f in os.listdir(folder)]
    size = features.record_bytes(kind, _T, _E)
    assert size == {'bfloat16': 480, 'int8': 240 + 60}[kind]
    assert 0 < sum(sizes) - 4 * size < 1000


def test_damage_is_named(tmp_path):
  store = features.Store(str(tmp_path), 'int8', _T, _E)
  store.add(['a', 'b'], _values(2))
  (file,) = tmp_path.iterdir()
  content = file.read_bytes()
  file.write_bytes(content[:-9] + b'~' + content[-8:])
  store = features.Store(str(tmp_path), 'int8', _T, _E)
  store.read('a')
  with pytest.raises(errors.ConfigError, match='features: is damaged: record'):
    store.read('b')
  file.write_bytes(content[:-1])
  with pytest.raises(errors.ConfigError, match=r'is damaged: \d+ of \d+ bytes'):
    features.Store(str(tmp_path), 'int8', _T, _E)
  with pytest.raises(errors.NonFiniteError):
    store.add(['c'], np.full((1, _T, _E), np.nan, np.float32))
