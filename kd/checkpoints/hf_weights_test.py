"""Tests folders written by other programs, and damaged ones."""

import json
import re
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy

from kd.checkpoints import hf_config
from kd.checkpoints import hf_weights
from kd.checkpoints import weights
from kd.core import errors
from kd.models import families
from kd.models.gemma3 import config as gemma3_config

_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=16,
  mlp_dim=32,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  vocab_size=48,
  layer_kinds=('local', 'global'),
  window=8,
  context=64,
  query_scale=8.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)
_TABLE = 'model.embed_tokens.weight'


@pytest.fixture(scope='module')
def tensors():
  random = np.random.default_rng(0)
  return {
    t.hf: random.normal(size=t.file_shape).astype(np.float32)
    for t in families.of(_CONFIG).tensors(_CONFIG)
  }


def _write(directory, tensors, vocab_size=48):
  directory.mkdir(exist_ok=True)
  values = hf_config.to_dict(_CONFIG, 'float32', 2, [1], 0)
  values['vocab_size'] = vocab_size
  (directory / 'config.json').write_text(json.dumps(values))
  safetensors.numpy.save_file(tensors, directory / hf_weights.SINGLE)
  return f'hf:{directory}'


def _load(init):
  model = families.build(_CONFIG, 'float32', 'none', 'student')
  weights.check_headers(init, 'teacher.init')
  return weights.load(init, model, None, (), 'float32', 'teacher.init')


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
  'prefix',
  [
    '_orig_mod.',
    'module.',
    'base_model.model.',
    'module._orig_mod.',
    'model.',
  ],
)
@pytest.mark.parametrize('home', ['model.', 'model.language_model.'])
def test_prefixes_of_wrappers_are_dropped(tensors, tmp_path, prefix, home):
  wanted = _load(_write(tmp_path / 'plain', tensors))
  wrapped = {
    f'{prefix}{home}{key.removeprefix("model.")}': x
    for key, x in tensors.items()
  }
  wrapped[f'{prefix}lm_head.weight'] = tensors[_TABLE]
  _assert_equal(_load(_write(tmp_path / 'wrapped', wrapped)), wanted)


def test_a_prefix_of_only_some_names_is_refused_in_one_short_line(
  tensors, tmp_path
):
  mixed = {
    key if i % 2 else f'_orig_mod.{key}': x
    for i, (key, x) in enumerate(tensors.items())
  }
  with pytest.raises(errors.ConfigError) as caught:
    _load(_write(tmp_path / 'model', mixed))
  text = str(caught.value)
  assert re.search(
    r'teacher.init: .*: the model has 28 tensors; 14 are missing: .*, and 11 '
    r'more; 14 are not part of the model: _orig_mod.*, and 11 more$',
    text,
  )
  assert len(text) < 1200


def test_embedding_rows_beyond_the_vocabulary_are_dropped(tensors, tmp_path):
  wanted = _load(_write(tmp_path / 'plain', tensors))
  padding = np.full((16, 16), 1e3, np.float32)
  padded = tensors | {_TABLE: np.concatenate([tensors[_TABLE], padding])}
  # As in the config, and more rows than in the config.
  for vocab_size in (64, 48):
    folder = tmp_path / f'padded_{vocab_size}'
    _assert_equal(_load(_write(folder, padded, vocab_size)), wanted)
  short = tensors | {_TABLE: tensors[_TABLE][:-1].copy()}
  with pytest.raises(errors.ConfigError, match=r'has \[47, 16\], expected'):
    _load(_write(tmp_path / 'short', short))


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64', 'bfloat16'])
@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_nonfinite_weights_are_refused_by_name(tensors, tmp_path, dtype, value):
  name = 'model.layers.1.mlp.down_proj.weight'
  changed = {k: x.astype(np.dtype(dtype)) for k, x in tensors.items()}
  changed[name][3, 5] = float(value)
  changed[name][9, 1] = float(value)
  with pytest.raises(
    errors.ConfigError,
    match=rf'teacher.init: .*model: {name}: 2 of 512 values are not finite, '
    rf'the first at \[3, 5\]: {value}',
  ):
    _load(_write(tmp_path / 'model', changed))


def test_inconsistent_indexes_are_refused(tensors, tmp_path):
  init = _write(tmp_path / 'model', tensors)
  index = tmp_path / 'model' / hf_weights.INDEX
  shard = 'model-00001-of-00001.safetensors'
  (tmp_path / 'model' / hf_weights.SINGLE).rename(tmp_path / 'model' / shard)
  for value, message in (
    ({}, 'weight_map: found None'),
    ({'weight_map': None}, 'weight_map: found None'),
    ({'weight_map': [shard]}, 'weight_map: found'),
    ({'weight_map': {_TABLE: None}}, 'weight_map: found None'),
    ({'weight_map': {_TABLE: [[shard]]}}, 'weight_map: found'),
    ({'weight_map': {_TABLE: f'../model/{shard}'}}, 'the same folder'),
    (
      {'weight_map': {_TABLE: shard, 'a': 'b', 'c': 'd'}},
      r'/b: no such file, .* names it \(2 of 3 files are missing\)',
    ),
    ([], r'holds \[\], not an object'),
  ):
    index.write_text(json.dumps(value))
    with pytest.raises(errors.ConfigError, match=f'teacher.init: .*{message}'):
      _load(init)
  index.write_text(json.dumps({'weight_map': dict.fromkeys(tensors, shard)}))
  _load(init)


@pytest.mark.parametrize(
  'damage',
  [
    lambda raw: b'',
    lambda raw: raw[:5],
    lambda raw: raw[:200],
    lambda raw: raw[:-4],
    lambda raw: struct.pack('<Q', 2**60) + raw[8:],
    lambda raw: struct.pack('<Q', 2**63 + 5) + raw[8:],
    lambda raw: raw[:8] + b'[' * (len(raw) - 8),
    lambda raw: raw.replace(b'"F32"', b'"F99"', 1),
    lambda raw: raw.replace(b'"F32"', b'"I32"', 1),
    lambda raw: raw.replace(b'"shape":[', b'"shape":[-', 1),
  ],
)
def test_damaged_weights_are_refused_by_the_header_check(
  tensors, tmp_path, damage
):
  init = _write(tmp_path / 'model', tensors)
  file = tmp_path / 'model' / hf_weights.SINGLE
  file.write_bytes(damage(file.read_bytes()))
  with pytest.raises(
    errors.ConfigError, match='^teacher.init: .*model.safetensors: '
  ):
    weights.check_headers(init, 'teacher.init')
