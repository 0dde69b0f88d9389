"""Tests that transformers loads our exports and computes the same logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.checkpoints import huggingface
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from tests.oracles import client

_EOS = [1, 5]
_SCALED = gemma3_config.Gemma3Config(
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
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)
_CONFIGS = {
  'scaled': _SCALED,
  # Every second layer of a model: no longer five local layers to one global.
  'half': dataclasses.replace(_SCALED, global_rope_factor=1.0).keep_layers(
    (1, 3, 5, 7)
  ),
}
_TOKENS = np.random.default_rng(0).integers(6, 96, 40, np.int32)


def _random(config):
  """Returns a model with random norm scales, which are initially 0."""
  model = families.build(config, 'float32', 'none', 'student')

  @jax.jit
  def make(rng):
    params = model.init_params(rng)
    noise = lambda x: x + 0.1 * jax.random.normal(rng, x.shape)
    return jax.tree.map(noise, params)

  return model, make(jax.random.key(0))


def _logits(model, params, tokens):
  positions = np.arange(len(tokens), dtype=np.int32)[None]
  run = lambda p: (
    model.apply(
      {'params': p}, tokens[None], positions, np.ones_like(positions)
    )[0][0]
    @ p['embedding'].T
  )
  return np.asarray(jax.jit(run)(params))


@pytest.fixture(scope='module')
def oracle(tmp_path_factory):
  folder = tmp_path_factory.mktemp('exports')
  models, cases = {}, {}
  for name, config in _CONFIGS.items():
    models[name] = _random(config)
  for name, dtype in (
    ('scaled', 'float32'),
    ('half', 'float32'),
    ('scaled', 'bfloat16'),
  ):
    directory = str(folder / f'{name}_{dtype}')
    huggingface.write(
      directory,
      models[name][1],
      _CONFIGS[name],
      dtype,
      2,
      _EOS,
      0,
      lambda _: None,
      file_bytes=50_000 if name == 'half' else 2**30,
    )
    cases[f'{name}_{dtype}'] = dict(
      directory=directory,
      dtype='float32',
      logits=['text'],
      generate=['text'] if dtype == 'float32' else [],
    )
  results, arrays = client.run(
    'hf',
    'models',
    cases,
    {'text': _TOKENS},
    tmp_path_factory.mktemp('oracle'),
  )
  return models, results, arrays


@pytest.mark.parametrize('name', list(_CONFIGS))
def test_logits_and_greedy_text_equal(name, oracle):
  models, results, arrays = oracle
  model, params = models[name]
  result = results[f'{name}_float32']
  assert (result['missing'], result['unexpected']) == ([], [])
  assert result['tied']
  ours = _logits(model, params, _TOKENS)
  assert np.abs(ours - arrays[f'{name}_float32.text']).max() < 1e-4
  text = np.array(result['generated']['text'])
  assert len(text) > len(_TOKENS)
  greedy = _logits(model, params, text.astype(np.int32)).argmax(-1)
  np.testing.assert_array_equal(
    greedy[len(_TOKENS) - 1 : -1], text[len(_TOKENS) :]
  )


def test_bfloat16_files_contain_parameters_rounded_once(oracle):
  models, _, arrays = oracle
  model, params = models['scaled']
  rounded = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params
  )
  ours = _logits(model, rounded, _TOKENS)
  assert np.abs(ours - arrays['scaled_bfloat16.text']).max() < 1e-4
  assert np.abs(ours - arrays['scaled_float32.text']).max() > 1e-3
