"""Tests vision towers in other programs' files, without a text model."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.checkpoints import mmproj
from kd.checkpoints import vision_weights
from kd.core import errors
from kd.models import families
from kd.models.gemma3 import family as gemma3

_CONFIG = families.variant('nano', '', with_vision=True)


def _params():
  model = families.build(_CONFIG, 'float32', 'none', '')
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32),
    model.abstract_params(),
  )


def test_a_file_for_llama_cpp_loads_to_the_same_tower(tmp_path):
  """tests/mmproj_oracle_test.py shows that llama.cpp reads such a file."""
  params, file = _params(), str(tmp_path / 'mmproj.gguf')
  mmproj.write(file, params, _CONFIG, 'F32', 'small')
  source = vision_weights.open_(f'gguf:{file}', gemma3.FAMILY, 'x')
  assert source.config == _CONFIG.vision
  assert source.text_dim == _CONFIG.embed_dim
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda _: one, params['vision'])
  read = vision_weights.load(source, shardings, 'float32', True, 'x')
  # The projector's norm is written as 1 + scale.
  jax.tree.map(
    lambda *x: np.testing.assert_allclose(*x, atol=1e-6), read, params['vision']
  )
  read = vision_weights.load(source, shardings, 'float32', False, 'x')
  assert set(read) == {'tower'}


def test_a_file_without_a_tower_is_refused_by_name(tmp_path):
  other = dataclasses.replace(
    _CONFIG, vision=dataclasses.replace(_CONFIG.vision, num_layers=1)
  )
  file = str(tmp_path / 'mmproj.gguf')
  mmproj.write(file, _params(), other, 'F32', 'small')
  with open(file, 'r+b') as f:
    content = f.read().replace(b'v.blk.0.ln1', b'v.blk.0.lnX', 1)
    f.seek(0)
    f.write(content)
  with pytest.raises(errors.ConfigError, match='x: .* missing: v.blk.0.ln1'):
    vision_weights.open_(f'gguf:{file}', gemma3.FAMILY, 'x')
  with pytest.raises(errors.ConfigError, match=r'x: .*no\.gguf'):
    vision_weights.open_(f'gguf:{tmp_path}/no.gguf', gemma3.FAMILY, 'x')
