"""Counting updates, and adding up many micro-batches in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.config import variants
from kd.core import types
from kd.losses import catalog
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import terms as terms_lib
from kd.models import gemma3
from kd.models import gemma3_config
from kd.optimizers import optimizers
from kd.train import update


def _batch(rows, length=4):
  rng = np.random.default_rng(0)
  tokens = rng.integers(4, 260, (2, rows, length)).astype(np.int32)
  ones = np.ones((rows, length), np.int32)
  return types.Batch(
    tokens=tokens[0],
    targets=tokens[1],
    positions=np.arange(length, dtype=np.int32) * ones,
    segment_ids=ones,
    parts=0 * ones,
    weights=ones.astype(np.float32),
    row_id=np.arange(rows, dtype=np.int32),
  )


def _make(dtype, lr, micro_batches):
  sizes = gemma3_config.from_variant('nano', variants.VARIANTS, '')
  model = gemma3.build(sizes.keep_layers((4, 5)), dtype, 'none', '')
  optimizer, rate = optimizers.build(base.adamw(lr).to_dict(), 12)
  context = terms_lib.Context(steps=12, student=None, teacher=None)
  terms = catalog.build({'ce': base.term('cross_entropy').to_dict()}, context)
  objective = objective_lib.Objective(terms, selection.everywhere(), 64)
  step = update.make(model, objective, optimizer, rate, micro_batches)
  params = jax.jit(lambda: gemma3.init_params(model, jax.random.key(0)))()
  return jax.jit(step), update.init_state(params, objective, optimizer, 0)


def test_the_rate_counts_updates_and_not_micro_batches():
  lr = base.schedule('warmup_linear', peak=1.0, warmup_steps=4, final=0.0)
  step, state = _make('float32', lr, micro_batches=4)
  seen = []
  for _ in range(12):
    state, out = step(state, _batch(4), None)
    seen.append(float(out.scalars['lr']))
  expected = [k / 4 for k in range(4)] + [1 - k / 8 for k in range(8)]
  np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_many_bfloat16_micro_batches_add_up_in_float32():
  lr = base.schedule('constant', peak=0.0, warmup_steps=0)
  norms = []
  for micro_batches in (1, 64):
    step, state = _make('bfloat16', lr, micro_batches)
    # The same row 64 times: every part's gradient is the whole's / 64.
    rows = jax.tree.map(lambda x: jnp.repeat(x, 64, axis=0), _batch(1))
    _, out = step(state, rows, None)
    norms.append(float(out.scalars['grad_norm']))
  np.testing.assert_allclose(norms[1], norms[0], rtol=3e-3)
