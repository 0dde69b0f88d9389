"""Tests Qwen3's files: config.json and GGUF."""

import dataclasses
import json

import gguf
import jax
import numpy as np
import pytest

from kd.checkpoints import hf_config
from kd.checkpoints import weights
from kd.core import errors
from kd.models import families
from kd.models import layer_stack
from kd.models import tensors as tensors_lib

# The published config.json of 0.6B.
_OFFICIAL = dict(
  architectures=['Qwen3ForCausalLM'],
  attention_bias=False,
  attention_dropout=0.0,
  bos_token_id=151643,
  eos_token_id=151645,
  head_dim=128,
  hidden_act='silu',
  hidden_size=1024,
  initializer_range=0.02,
  intermediate_size=3072,
  max_position_embeddings=40960,
  max_window_layers=28,
  model_type='qwen3',
  num_attention_heads=16,
  num_hidden_layers=28,
  num_key_value_heads=8,
  rms_norm_eps=1e-06,
  rope_scaling=None,
  rope_theta=1000000,
  sliding_window=None,
  tie_word_embeddings=True,
  torch_dtype='bfloat16',
  transformers_version='4.51.0',
  use_cache=True,
  use_sliding_window=False,
  vocab_size=151936,
)


def _read(values, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(values))
  return hf_config.read(str(tmp_path))


def test_the_official_config_equals_the_variant(tmp_path):
  variant = families.variant('qwen3_0_6b', 'variant')
  assert _read(_OFFICIAL, tmp_path) == variant
  # Newer files have the rotary base in another place, and list the layers.
  newer = {k: v for k, v in _OFFICIAL.items() if not k.startswith('rope_')}
  newer['rope_parameters'] = {'rope_type': 'default', 'rope_theta': 1e6}
  newer['layer_types'] = ['full_attention'] * 28
  assert _read(newer, tmp_path) == variant
  ours = hf_config.to_dict(variant, 'bfloat16', 151643, [151645], 151643)
  odd = ('transformers_version', 'eos_token_id')
  theirs = {k: v for k, v in _OFFICIAL.items() if k not in odd}
  assert {k: v for k, v in ours.items() if k in theirs} == theirs


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'attention_bias': True}, 'attention_bias: found True; legal: False'),
    ({'hidden_act': 'gelu'}, "hidden_act: found 'gelu'; legal: 'silu'"),
    ({'use_sliding_window': True}, 'use_sliding_window: found True'),
    (
      {'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}},
      "rope_scaling: found .*yarn.*legal: rope_type 'default'",
    ),
    (
      {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4}},
      'rope_parameters: has rope_theta 10000.0, but the .* is 1000000.0',
    ),
    ({'num_key_value_heads': 3}, 'num_key_value_heads: found 3'),
    ({'tie_word_embeddings': 'no'}, "tie_word_embeddings: found 'no'"),
    ({'layer_types': ['sliding_attention'] * 28}, "'full_attention'"),
    ({'hidden_size': None}, 'hidden_size: missing'),
    ({'model_type': 'qwen4'}, "legal: gemma3, gemma3_text, qwen3; .*'qwen3'"),
  ],
)
def test_settings_that_qwen3_lacks_are_refused_by_name(
  changes, message, tmp_path
):
  with pytest.raises(errors.ConfigError, match=message):
    _read(_OFFICIAL | changes, tmp_path)


def _config(tied):
  return dataclasses.replace(
    families.variant('qwen3_8b', 'variant'),
    embed_dim=32,
    mlp_dim=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=96,
    num_layers=3,
    tied=tied,
  )


def _write_gguf(path, params, config, **fields):
  writer = gguf.GGUFWriter(path, 'qwen3')
  writer.add_block_count(config.num_layers)
  writer.add_embedding_length(config.embed_dim)
  writer.add_feed_forward_length(config.mlp_dim)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_value_length(config.head_dim)
  writer.add_context_length(config.context)
  writer.add_layer_norm_rms_eps(config.norm_epsilon)
  writer.add_rope_freq_base(config.rope_base)
  for key, value in fields.items():
    writer.add_string(f'qwen3.{key}', value)
  for t in families.of(config).tensors(config):
    leaf = tensors_lib.leaf(params, t.path)
    array = leaf if t.group is None else leaf[t.group]
    # As Hugging Face has them: only the names differ.
    array = t.to_file(array, tensors_lib.HF)
    writer.add_tensor(t.gguf, np.ascontiguousarray(array))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@pytest.mark.parametrize('tied', [True, False])
def test_a_gguf_file_loads_to_the_same_tree(tied, tmp_path):
  config = _config(tied)
  model = families.build(config, 'float32', 'none', 'student')
  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: random.normal(size=x.shape).astype(np.float32),
    model.abstract_params(),
  )
  file = str(tmp_path / 'model.gguf')
  _write_gguf(file, params, config)
  init = f'gguf:{file}'
  assert weights.model_config(init, 'student.init') == config
  weights.check_headers(init, 'student.init')
  found = weights.load(init, model, None, (), 'float32', 'student.init')
  jax.tree.map(np.testing.assert_array_equal, found, params)
  # A part of its layers, as keep_layers selects them.
  small = families.build(config.keep_layers((0, 2)), 'float32', 'none', '')
  kept = weights.load(init, small, None, (0, 2), 'float32', 'student.init')
  same = weights.layers_from(params, config, (0, 2))
  jax.tree.map(np.testing.assert_array_equal, kept, same)
  for i, layer in enumerate((0, 2)):
    jax.tree.map(
      np.testing.assert_array_equal,
      layer_stack.params_of(small.config, kept, i),
      layer_stack.params_of(config, params, layer),
    )


def test_a_gguf_file_with_scaled_positions_is_refused(tmp_path):
  config = _config(True)
  model = families.build(config, 'float32', 'none', 'student')
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), model.abstract_params()
  )
  file = str(tmp_path / 'model.gguf')
  _write_gguf(file, params, config, **{'rope.scaling.type': 'yarn'})
  with pytest.raises(errors.ConfigError, match="scaling.type: found 'yarn'"):
    weights.model_config(f'gguf:{file}', 'student.init')
