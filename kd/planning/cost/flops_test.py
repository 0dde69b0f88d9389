"""Tests the formulas against compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.models.attention import attention
from kd.models.gemma3 import config as gemma3_config
from kd.models.qwen3 import config as qwen3_config
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups
from kd.planning.cost import flops
from kd.planning.hlo import hlo
from kd.train import update

_CHUNK = 64


def _config(width, layers, vocab_size):
  return gemma3_config.Gemma3Config(
    embed_dim=width,
    mlp_dim=3 * width,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=vocab_size,
    layer_kinds=gemma3_config.periodic_kinds(layers, 2),
    window=40,
    context=4096,
    query_scale=16.0,
    local_rope_base=1e4,
    global_rope_base=1e6,
    global_rope_factor=1.0,
    norm_epsilon=1e-6,
  )


_STUDENT, _TEACHER = _config(32, 4, 640), _config(48, 5, 768)
_STUDENTS = {
  'gemma3': _STUDENT,
  'qwen3': qwen3_config.Qwen3Config(
    embed_dim=32,
    mlp_dim=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=640,
    num_layers=4,
    context=4096,
    rope_base=1e6,
    norm_epsilon=1e-6,
    tied=False,
  ),
}


def _shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _batch(rows, length):
  ints = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  return types.Batch(
    tokens=ints,
    targets=ints,
    positions=ints,
    segment_ids=ints,
    parts=ints,
    weights=jax.ShapeDtypeStruct((rows, length), jnp.float32),
    row_id=jax.ShapeDtypeStruct((rows,), jnp.int32),
  )


def _update(student, remat, rows, length, frozen=None):
  """Returns the compiled update's text."""
  model = families.build(student, 'float32', remat, '')
  lr = base.schedule('constant', peak=1e-4, warmup_steps=0)
  groups = parameter_groups.ALL_TRAINED
  if frozen:
    entries = {'a': base.parameter_group(frozen, frozen=True).to_dict()}
    groups = parameter_groups.ParameterGroups(
      student, parameter_groups.build(entries, '', 10)
    )
  optimizer, rate = optimizers.build(base.adamw(lr).to_dict(), 10, groups)
  sizes = terms_lib.Sizes(4, 32, 4, 2, 16, 0.25, (None,) * 4)
  objective = objective_lib.Objective(
    terms=term_builder.build(
      {'kl': base.term('forward_kl').to_dict()},
      terms_lib.Context(steps=10, student=sizes, teacher=sizes),
    ),
    selection=selection.everywhere(),
    chunk_tokens=_CHUNK,
  )
  params = _shapes(model.abstract_params())
  state = jax.eval_shape(
    lambda p: update.init_state(p, objective, optimizer, 0), params
  )
  dense = dense_distributions.DenseTeacher(
    final_hidden=jax.ShapeDtypeStruct((rows, length, 48), jnp.float32),
    unembedding=jax.ShapeDtypeStruct((768, 48), jnp.float32),
    weight=jax.ShapeDtypeStruct((), jnp.float32),
  )
  make = update.make(model, objective, optimizer, rate, 1)
  targets = distributions.Targets(
    distribution=dense_distributions.DenseMixture((dense,)), taps=None
  )
  lowered = jax.jit(make).lower(state, _batch(rows, length), targets)
  return lowered.compile().as_text()


@pytest.mark.parametrize(
  'family,remat,rows,length',
  [
    ('gemma3', 'none', 2, 200),
    ('gemma3', 'block', 1, 1300),
    ('qwen3', 'block', 1, 1300),
  ],
)
def test_the_update(family, remat, rows, length):
  student = _STUDENTS[family]
  models, xla = (student, (_TEACHER,)), attention.XLA
  parts = flops.step(*models, rows, length, remat, rows * length, xla)
  analytic = sum(parts.values()) - parts['teacher']
  trips = -(-length // (_CHUNK // rows))
  counted = hlo.flops(_update(student, remat, rows, length), trips)
  # The last chunk may be padded, which the formulas ignore.
  padded = trips * _CHUNK - rows * length
  waste = flops.step(*models, 1, 1, 'none', padded, xla)['objective']
  np.testing.assert_allclose(counted - waste, analytic, rtol=1e-3)


def test_an_update_without_gradients_of_some_parameters():
  student = _STUDENT
  mlps = 3 * student.num_layers * student.embed_dim * student.mlp_dim
  models, shape, xla = (student, (_TEACHER,)), (2, 200), attention.XLA
  frozen = flops.Frozen(mlps, True)
  parts = flops.step(*models, *shape, 'dots', 400, xla, frozen)
  analytic = sum(parts.values()) - parts['teacher']
  trips = -(-200 // (_CHUNK // 2))
  text = _update(student, 'dots', *shape, r'layers\.\d+\.mlp|embedding')
  padded = trips * _CHUNK - 400
  waste = flops.step(*models, 1, 1, 'none', padded, xla, frozen)['objective']
  counted = hlo.flops(text, trips) - waste
  np.testing.assert_allclose(counted, analytic, rtol=1e-3)


@pytest.mark.parametrize('length', [200, 1300])
def test_the_teacher(length):
  model = families.build(_TEACHER, 'float32', 'none', '')
  params = _shapes(model.abstract_params())
  forward = lambda p, b: model.forward(p, b, types.TapSpec((), ()))
  text = jax.jit(forward).lower(params, _batch(2, length)).compile().as_text()
  work = flops.as_computed(_TEACHER, length, attention.XLA)
  np.testing.assert_allclose(
    hlo.flops(text, None), flops.forward(_TEACHER, 2, length, work), rtol=1e-3
  )


@pytest.mark.parametrize('length', [384, 2048])
def test_kernels_compute_only_blocks_with_visible_pairs(length):
  block = {384: 128, 2048: 512}[length]
  work = flops.as_computed(_TEACHER, length, attention.SPLASH)
  places = np.arange(length)
  for window in (_TEACHER.window, None):
    behind = places[:, None] - places[None, :]
    seen = (behind >= 0) & (behind < (window or length))
    blocks = seen.reshape(length // block, block, length // block, block)
    count = int(blocks.any((1, 3)).sum())
    assert work.pairs[window] == count * block**2, window


def test_scores_are_recomputed_only_in_long_rows():
  again = [
    flops.repeated_scores(_STUDENT, 2, length, attention.XLA)
    for length in (1024, 1300)
  ]
  pairs = flops.as_computed(_STUDENT, 1300, attention.XLA).pairs
  scored = 2 * sum(pairs[window] for window in _STUDENT.windows)
  product = 2 * scored * _STUDENT.num_heads * _STUDENT.head_dim
  assert again == [0, product]
