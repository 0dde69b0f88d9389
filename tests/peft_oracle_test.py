"""PEFT loads our adapters, on text models and on those with a vision tower."""

import functools
import json

import jax
import numpy as np
import pytest

from kd.checkpoints import huggingface
from kd.checkpoints import peft
from kd.core import types
from kd.models import families
from kd.models import lora
from kd.models import tensors
from kd.models.gemma3 import config as gemma3_config
from tests.oracles import client

_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=32,
  mlp_dim=48,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  vocab_size=96,
  layer_kinds=gemma3_config.published_kinds(8),
  window=4,
  context=128,
  query_scale=12.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)
_TOKENS = np.random.default_rng(0).integers(6, 96, 40, np.int32)
# By name: the model_type of the base's config.json, targets, rank-stabilized.
_CASES = {
  'text': ('gemma3_text', tensors.LAYER_MATRICES, False),
  'vision': ('gemma3', ('q_proj', 'o_proj', 'down_proj'), True),
}


def _random(tree, seed):
  """Returns random arrays of these shapes: they compile no initializer."""
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: 0.2 * random.standard_normal(x.shape, np.float32), tree
  )


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params):
  row = lambda x: np.asarray(x, np.int32)[None]
  batch = types.Batch(
    tokens=row(_TOKENS),
    targets=row(_TOKENS),
    positions=row(np.arange(len(_TOKENS))),
    segment_ids=row(np.ones(len(_TOKENS))),
    parts=row(np.zeros(len(_TOKENS))),
    weights=np.ones((1, len(_TOKENS)), np.float32),
    row_id=np.zeros(1, np.int32),
  )
  hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
  return hidden[0] @ model.unembedding(params).T


@pytest.fixture(scope='module')
def oracle(tmp_path_factory):
  folder = tmp_path_factory.mktemp('adapters')
  inner = families.build(_CONFIG, 'float32', 'none', 'student')
  base = _random(inner.abstract_params(), 0)
  cases, ours = {}, {'base': _logits(inner, base)}
  text = str(folder / 'base')
  huggingface.write(text, base, _CONFIG, 'float32', 2, [1], 0, lambda _: None)
  for name, (model_type, targets, stabilized) in _CASES.items():
    model = lora.LoraModel(inner, 3, 8.0, targets, stabilized)
    shapes = jax.eval_shape(model.init_adapters, jax.random.key(0))
    params = model.with_base(base, _random(shapes, 1))
    ours[name] = _logits(model, params)
    named, adapter = folder / f'{name}_base', folder / f'{name}_adapter'
    named.mkdir()
    (named / 'config.json').write_text(json.dumps({'model_type': model_type}))
    peft.write(str(adapter), params, model, str(named), lambda _: None)
    cases[name] = dict(
      base=text, adapter=str(adapter), with_vision=model_type == 'gemma3'
    )
  directory = tmp_path_factory.mktemp('oracle')
  results, arrays = client.run(
    'adapters', 'load', cases, {'text': _TOKENS}, directory
  )
  return ours, results, arrays


@pytest.mark.parametrize('name', list(_CASES))
def test_adapted_and_merged_models_have_our_logits(name, oracle):
  ours, results, arrays = oracle
  # A wrong prefix is a warning of missing keys, and has no effect.
  warned = [w for w in results[name]['warnings'] if 'key' in w]
  assert warned == []
  apart = lambda x, y: np.abs(x - y).max()
  assert apart(arrays[f'{name}.base'], ours['base']) < 1e-4
  assert apart(ours[name], ours['base']) > 0.1
  assert apart(arrays[f'{name}.adapted'], ours[name]) < 1e-4
  assert apart(arrays[f'{name}.merged'], ours[name]) < 1e-4
