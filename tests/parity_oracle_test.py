"""Tests logits against transformers on random models with special cases."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.checkpoints import weights
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from tests.oracles import client

_SMALL = dict(
  vocab_size=283,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=6,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=16,
  query_pre_attn_scalar=16,
  sliding_window=8,
  max_position_embeddings=4096,
)
_LOCAL, _FULL = 'sliding_attention', 'full_attention'
_ROPE = {
  _LOCAL: {'rope_type': 'default', 'rope_theta': 10_000.0},
  _FULL: {'rope_type': 'default', 'rope_theta': 1_000_000.0},
}
_SCALED = _ROPE | {
  _FULL: {'rope_type': 'linear', 'rope_theta': 1_000_000.0, 'factor': 8.0}
}
_CONFIGS = {
  # 5 groups of 6 layers, 4 remaining layers, and one key head.
  'deep': dict(num_hidden_layers=34, num_key_value_heads=1),
  # Like 4B: only global layers have scaled positions, far beyond the window.
  'factor': dict(rope_parameters=_SCALED, sliding_window=64),
  # Like 27B: a query scale that is neither H nor a power of two, and an unusual
  # embedding scale.
  'scale': dict(
    hidden_size=72,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    query_pre_attn_scalar=12,
  ),
  # Without a pattern the scan has one group.
  'kinds': dict(
    num_hidden_layers=7,
    layer_types=[_FULL, _LOCAL, _LOCAL, _FULL, _FULL, _LOCAL, _LOCAL],
  ),
  # The smallest window: a local query sees itself and one other token.
  'window': dict(sliding_window=2),
}


def _tokens(length, seed):
  generator = np.random.default_rng(seed)
  return generator.integers(0, _SMALL['vocab_size'], length, np.int32)


_TEXTS = {
  'long': _tokens(3000, 0),
  'a': _tokens(40, 1),
  'b': _tokens(23, 2),
  'c': _tokens(9, 3),
}


@pytest.fixture(scope='module')
def oracle(tmp_path_factory):
  """Model directories, and logits by case and text."""
  folder = tmp_path_factory.mktemp('models')
  cases = {}
  for name, changes in _CONFIGS.items():
    cases[name] = dict(
      directory=str(folder / name),
      config=_SMALL | changes,
      dtype='float32',
      logits=['long'] if name == 'factor' else ['a', 'b', 'c'],
    )
  cases['scale']['embedded'] = ['a']
  cases['scale_bf16'] = dict(
    directory=str(folder / 'scale'),
    dtype='bfloat16',
    logits=['a'],
    embedded=['a'],
  )
  _, arrays = client.run(
    'hf', 'models', cases, _TEXTS, tmp_path_factory.mktemp('oracle')
  )
  return {name: c['directory'] for name, c in cases.items()}, arrays


def _model(directory, dtype='float32'):
  init = f'hf:{directory}'
  model = families.build(
    weights.model_config(init, 'student.init'), dtype, 'none', 'student'
  )
  return model, weights.load(init, model, None, (), 'float32', 'student.init')


def _logits(model, params, tokens, positions, segment_ids):
  """Returns logits [B, L, V] of rows."""

  @jax.jit
  def run(params, *batch):
    hidden, _ = model.apply({'params': params}, *batch)
    wide = hidden.astype(jnp.float32)
    return wide @ params['embedding'].astype(hidden.dtype).T.astype(wide.dtype)

  return np.asarray(run(params, tokens, positions, segment_ids))


def _alone(model, params, tokens):
  positions = np.arange(len(tokens), dtype=np.int32)
  ones = np.ones_like(tokens)
  return _logits(model, params, tokens[None], positions[None], ones[None])[0]


@pytest.mark.parametrize('name', list(_CONFIGS))
def test_logits_equal_transformers(name, oracle):
  directories, arrays = oracle
  text = 'long' if name == 'factor' else 'a'
  ours = _alone(*_model(directories[name]), _TEXTS[text])
  reference = arrays[f'{name}.{text}']
  assert reference.std() > 0.5
  assert np.abs(ours - reference).max() < 1e-4


@pytest.mark.parametrize('name', ['deep', 'kinds', 'window'])
def test_packed_rows_equal_separate_texts(name, oracle):
  directories, arrays = oracle
  texts = [_TEXTS[key] for key in 'abc']
  padding = np.full(5, 7, np.int32)
  row = np.concatenate([padding, *texts, padding])
  segments = [np.full(len(t), i, np.int32) for i, t in enumerate(texts, 1)]
  zeros = np.zeros_like(padding)
  segment_ids = np.concatenate([zeros, *segments, zeros])
  positions = np.concatenate(
    [zeros, *(np.arange(len(t), dtype=np.int32) for t in texts), zeros]
  )
  model, params = _model(directories[name])
  logits = _logits(
    model, params, row[None], positions[None], segment_ids[None]
  )[0]
  for i, key in enumerate('abc', 1):
    difference = logits[segment_ids == i] - arrays[f'{name}.{key}']
    assert np.abs(difference).max() < 1e-4, key


def test_configs_written_by_transformers_are_read_correctly(oracle):
  directories, _ = oracle
  local, full = gemma3_config.LOCAL, gemma3_config.GLOBAL
  kinds = weights.model_config(
    f'hf:{directories["kinds"]}', 'student.init'
  ).layer_kinds
  assert kinds == (full, local, local, full, full, local, local)
  config = weights.model_config(f'hf:{directories["factor"]}', 'student.init')
  assert (config.global_rope_factor, config.local_rope_base) == (8.0, 1e4)


def _embedded(model, params, tokens):
  """Returns the input of the first layer, [L, D]."""
  entered = []

  def spy(next_fun, args, kwargs, context):
    if context.module.name == 'pattern' and context.method_name == '__call__':
      jax.debug.callback(entered.append, args[0])  # The scan runs once.
    return next_fun(*args, **kwargs)

  ones = np.ones((1, len(tokens)), np.int32)
  with nn.intercept_methods(spy):
    model.apply(
      {'params': params}, tokens[None], np.cumsum(ones)[None] - 1, ones
    )
  jax.effects_barrier()
  assert len(entered) == 1
  return np.asarray(entered[0][0], np.float32)


def test_embedding_scale_is_rounded_to_the_type_of_activations(oracle):
  directories, arrays = oracle
  for dtype, case, limit in (
    ('float32', 'scale', 1e-6),
    ('bfloat16', 'scale_bf16', 0),
  ):
    model, params = _model(directories['scale'], dtype)
    found = _embedded(model, params, _TEXTS['a'])
    reference = arrays[f'{case}.a.embedded']
    assert np.abs(found - reference).max() <= limit, dtype


def test_bfloat16_is_as_close_to_float32_as_transformers_is(oracle):
  directories, arrays = oracle
  ours = _alone(*_model(directories['scale'], 'bfloat16'), _TEXTS['a'])
  exact = arrays['scale.a']
  theirs = np.abs(arrays['scale_bf16.a'] - exact)
  assert np.abs(ours - exact).max() < 1.5 * theirs.max()
  assert np.abs(ours - exact).mean() < 1.1 * theirs.mean()
