import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import errors
from kd.models import families
from kd.models import transformer
from kd.models.gemma3 import config as gemma3_config

# One period of 2 layers and 1 more; a window much shorter than a text.
_CONFIG = gemma3_config.Gemma3Config(
  embed_dim=32,
  mlp_dim=48,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  vocab_size=64,
  layer_kinds=gemma3_config.periodic_kinds(3, 2),
  window=4,
  context=128,
  query_scale=12.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)


def _build(config=_CONFIG, dtype='float32', remat='none'):
  model = families.build(config, dtype, remat, 'student')
  shapes = model.abstract_params()
  random = np.random.default_rng(0)
  # Of the same scale as init_params, which takes seconds to compile.
  draw = lambda x: (0.15 * random.normal(size=x.shape)).astype(np.float32)
  return model, jax.tree.map(draw, shapes)


@functools.cache
def _runner(model):
  return jax.jit(lambda params, *batch: model.apply({'params': params}, *batch))


@pytest.fixture(scope='module')
def built():
  return _build()


def _tokens(length, seed=0, rows=1):
  random = np.random.default_rng(seed)
  return random.integers(1, 64, (rows, length), np.int32)


def _places(*lengths):
  """Positions and segment ids [1, L] of packed texts."""
  positions = np.concatenate([np.arange(n) for n in lengths])
  segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
  return (positions[None].astype(np.int32), segment_ids[None].astype(np.int32))


def _hidden(built, tokens, positions, segment_ids):
  model, params = built
  return np.asarray(_runner(model)(params, tokens, positions, segment_ids)[0])


def _alone(built, tokens):
  return _hidden(built, tokens, *_places(tokens.shape[1]))


def _influence(config, length):
  """[L, L]: whether output i moves with the input at j, by gradient."""
  model, params = _build(config)
  # Every position has a row of the embedding to itself.
  tokens = np.arange(length, dtype=np.int32)[None]
  positions, segment_ids = _places(length)

  def output(embedding):
    found, _ = model.apply(
      {'params': params | {'embedding': embedding}},
      tokens,
      positions,
      segment_ids,
    )
    return (found[0] * weights).sum(-1)

  weights = np.random.default_rng(0).normal(size=(length, config.embed_dim))
  jacobian = jax.jit(jax.jacrev(output))(params['embedding'])
  return np.abs(np.asarray(jacobian)[:, :length]).max(-1) > 0


def test_causal_by_gradient():
  length = 12
  seen = _influence(_CONFIG, length)
  np.testing.assert_array_equal(seen, np.tri(length, dtype=bool))


@pytest.mark.parametrize('layers', [1, 2])
def test_local_layers_attend_to_exactly_the_window(layers):
  length, window = 16, _CONFIG.window
  config = dataclasses.replace(
    _CONFIG, layer_kinds=(gemma3_config.LOCAL,) * layers
  )
  i, j = np.ogrid[:length, :length]
  reach = layers * (window - 1)
  wanted = (j <= i) & (j >= i - reach)
  np.testing.assert_array_equal(_influence(config, length), wanted)


def test_kinds_of_the_published_layers():
  kinds = gemma3_config.published_kinds(26)
  found = [i for i, kind in enumerate(kinds) if kind == gemma3_config.GLOBAL]
  assert found == [5, 11, 17, 23]


def test_variants_have_the_published_query_scale_and_size():
  # Billions of parameters of the text models, arXiv 2503.19786, table 1.
  published = {
    '1b': (0.302, 0.698),
    '4b': (0.675, 3.209),
    '12b': (1.012, 10.759),
    '27b': (1.416, 25.600),
  }
  for name, (embedding, rest) in published.items():
    c = families.variant(name, 'variant')
    assert c.query_scale == (168 if name == '27b' else 256)
    assert c.query_scale == (
      c.embed_dim / c.num_heads if name == '27b' else c.head_dim
    )
    total = c.parameter_count / 1e9
    assert c.vocab_size * c.embed_dim / 1e9 == pytest.approx(
      embedding, rel=0.01
    )
    assert total == pytest.approx(embedding + rest, rel=0.01)


# All longer than the window; the last pair also crosses borders of blocks.
@pytest.mark.parametrize('a, b', [(13, 9), (700, 400)])
def test_packed_texts_are_bit_independent_of_each_other(a, b, built):
  tokens = _tokens(a + b)
  other = tokens.copy()
  other[:, :a] = _tokens(a, seed=1)
  places = _places(a, b)
  found = _hidden(built, tokens, *places)[:, a:]
  np.testing.assert_array_equal(found, _hidden(built, other, *places)[:, a:])
  alone = _alone(built, tokens[:, a:])
  np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize('left, right', [(0, 7), (7, 0), (3, 4)])
def test_padding_changes_nothing(left, right, built):
  tokens, length = _tokens(10), 10
  padded = np.concatenate([_tokens(left, 2), tokens, _tokens(right, 3)], axis=1)
  places = [np.pad(x, ((0, 0), (left, right))) for x in _places(length)]
  found = _hidden(built, padded, *places)
  assert np.isfinite(found).all()
  np.testing.assert_allclose(
    found[:, left : left + length], _alone(built, tokens), atol=1e-5
  )


def _equations(num_layers, remat):
  """Equations of the whole program, those of inner programs included."""
  config = dataclasses.replace(
    _CONFIG, layer_kinds=gemma3_config.periodic_kinds(num_layers, 2)
  )
  model = families.build(config, 'float32', remat, 'student')
  shapes = model.abstract_params()
  batch = [jax.ShapeDtypeStruct((1, 8), np.int32)] * 3

  def loss(params, *batch):
    return model.apply({'params': params}, *batch)[0].sum()

  return len(str(jax.make_jaxpr(jax.grad(loss))(shapes, *batch)).splitlines())


@pytest.mark.parametrize('remat', list(transformer.REMAT_POLICIES))
def test_the_program_does_not_grow_with_depth(remat):
  assert _equations(4, remat) == _equations(8, remat)


def _saved_per_token(remat):
  """Numbers that the forward pass saves for the backward pass, by token."""
  model = families.build(_CONFIG, 'float32', remat, 'student')
  shapes = model.abstract_params()

  def residuals(params, *batch):
    run = lambda p: model.apply({'params': p}, *batch)[0]
    return jax.vjp(run, params)[1]

  def size(length):
    batch = [jax.ShapeDtypeStruct((1, length), np.int32)] * 3
    saved = jax.eval_shape(residuals, shapes, *batch)
    return sum(x.size for x in jax.tree.leaves(saved))

  # Parameters are also saved, at any length.
  return (size(32) - size(16)) / 16


def test_rematerialization_saves_the_chosen_values():
  c = _CONFIG
  layers, inputs = c.num_layers, c.num_layers * c.embed_dim
  block, dots, everything = map(_saved_per_token, ('block', 'dots', 'none'))
  # The embedding's and the norms' values outside of the layers are few.
  assert inputs <= block <= inputs + 4 * c.embed_dim
  heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
  products = layers * (heads + 2 * c.mlp_dim + 2 * c.embed_dim)
  assert block + products <= dots + 1e-9 <= block + 1.5 * products
  assert everything > 3 * dots


@functools.cache
def _gradient(model):
  batch = (_tokens(9), *_places(9))
  loss = lambda p: jnp.square(model.apply({'params': p}, *batch)[0]).sum()
  return jax.jit(jax.grad(loss))


@pytest.mark.parametrize('remat', ['block_offload', 'dots_offload'])
def test_saving_values_on_the_host_changes_no_gradient(built, remat):
  model, params = built
  gradient = _gradient(model.clone(remat=remat))
  # The scan over one period saves two layers' inputs, or products of theirs.
  text = str(gradient.trace(params).jaxpr)
  inputs = set(re.findall(r'(\w+):f32<host>\[1,1,9,32\]', text))
  products = set(re.findall(r'(\w+):f32<host>\[1,9,48\]', text))
  assert len(inputs) >= 2 if remat == 'block_offload' else products
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, atol=1e-4),
    gradient(params),
    _gradient(model)(params),
  )


def test_float16_and_unknown_names_are_refused():
  with pytest.raises(errors.ConfigError, match='dtype.*float16.*exceed'):
    _build(dtype='float16')
  with pytest.raises(errors.ConfigError, match="did you mean 'bfloat16'"):
    _build(dtype='bfloat61')
  with pytest.raises(errors.ConfigError, match="remat.*did you mean 'block'"):
    _build(remat='blocks')


def test_bfloat16_scales_are_not_rounded_after_adding_one():
  """1 + scale has more bits than a bfloat16 scale: it is not rounded to one."""
  kinds = (gemma3_config.LOCAL, gemma3_config.GLOBAL)
  config = dataclasses.replace(_CONFIG, layer_kinds=kinds)
  model, params = _build(config, dtype='bfloat16')
  random = np.random.default_rng(0)

  def narrow(path, x):
    if path[-1].key == 'scale':
      x = random.normal(size=x.shape)
    return jnp.asarray(x, jnp.bfloat16)

  params = jax.tree_util.tree_map_with_path(narrow, params)
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  batch = (_tokens(9), *_places(9))

  # Otherwise the compiler may leave out the rounding that is tested.
  @functools.partial(
    jax.jit, compiler_options={'xla_allow_excess_precision': False}
  )
  def run(params):
    return model.apply({'params': params}, *batch)[0]

  np.testing.assert_array_equal(run(params), run(wide))


def test_parameters_are_float32_and_activations_of_the_given_type():
  model, params = _build(dtype='bfloat16')
  # Traced, not compiled: the initial parameters of a run.
  initial = jax.eval_shape(lambda: model.init_params(jax.random.key(0)))
  assert {x.dtype for x in jax.tree.leaves(initial)} == {jnp.dtype('float32')}
  hidden, _ = _runner(model)(params, _tokens(5), *_places(5))
  assert hidden.dtype == jnp.bfloat16
  assert np.isfinite(np.asarray(hidden, np.float32)).all()
