"""The count on paper against programs that were compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import types
from kd.losses import catalog
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import terms as terms_lib
from kd.models import attention
from kd.models import gemma3
from kd.models import gemma3_config
from kd.optimizers import optimizers
from kd.planning import flops
from kd.planning import hlo
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


def _update(remat, rows, length):
  """Returns the compiled update's text."""
  model = gemma3.build(_STUDENT, 'float32', remat, '')
  lr = base.schedule('constant', peak=1e-4, warmup_steps=0)
  optimizer, rate = optimizers.build(base.adamw(lr).to_dict(), 10)
  sizes = terms_lib.Sizes(4, 32, 4, 2, 16, 0.25, (None,) * 4)
  objective = objective_lib.Objective(
    terms=catalog.build(
      {'kl': base.term('forward_kl').to_dict()},
      terms_lib.Context(steps=10, student=sizes, teacher=sizes),
    ),
    selection=selection.everywhere(),
    chunk_tokens=_CHUNK,
  )
  params = _shapes(gemma3.unbox(gemma3.abstract_params(model)))
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
  'remat,rows,length',
  [('none', 2, 200), ('block', 2, 200), ('dots', 2, 200), ('block', 1, 1300)],
)
def test_the_update(remat, rows, length):
  models, xla = (_STUDENT, (_TEACHER,)), attention.XLA
  parts = flops.step(*models, rows, length, remat, rows * length, xla)
  on_paper = sum(parts.values()) - parts['teacher']
  trips = -(-length // (_CHUNK // rows))
  counted = hlo.flops(_update(remat, rows, length), trips)
  # The last chunk may be padded, which is no work on paper.
  padded = trips * _CHUNK - rows * length
  waste = flops.step(*models, 1, 1, 'none', padded, xla)['objective']
  np.testing.assert_allclose(counted - waste, on_paper, rtol=1e-3)


@pytest.mark.parametrize('length', [200, 1300])
def test_the_teacher(length):
  model = gemma3.build(_TEACHER, 'float32', 'none', '')
  params = _shapes(gemma3.unbox(gemma3.abstract_params(model)))
  forward = lambda p, b: gemma3.forward(model, p, b, types.TapSpec((), ()))
  text = jax.jit(forward).lower(params, _batch(2, length)).compile().as_text()
  work = flops.as_computed(_TEACHER, length, attention.XLA)
  np.testing.assert_allclose(
    hlo.flops(text, None), flops.forward(_TEACHER, 2, length, work), rtol=1e-3
  )


@pytest.mark.parametrize('length', [384, 2048])
def test_a_kernel_computes_the_blocks_in_which_something_is_seen(length):
  block = {384: 128, 2048: 512}[length]
  work = flops.as_computed(_TEACHER, length, attention.SPLASH)
  places = np.arange(length)
  for kind, window in (('local', _TEACHER.window), ('global', length)):
    behind = places[:, None] - places[None, :]
    seen = (behind >= 0) & (behind < window)
    blocks = seen.reshape(length // block, block, length // block, block)
    count = int(blocks.any((1, 3)).sum())
    assert work.pairs[kind] == count * block**2, kind
