"""Counts of updates, and micro-batches compared with whole batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.optimizers import optimizers
from kd.run import model_sizes
from kd.train import update

_WIDTH, _VOCAB = 16, 48
_SIZES = gemma3_config.Gemma3Config(
  embed_dim=_WIDTH,
  mlp_dim=32,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  vocab_size=_VOCAB,
  layer_kinds=(gemma3_config.GLOBAL,),
  window=4,
  context=64,
  query_scale=8.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)
_LABELS = ('ce',)
_ALL = ('ce', 'hidden', 'kl', 'noisy')
_TERMS = {
  'ce': base.term('cross_entropy'),
  'hidden': base.term('hidden_states', pairs=1),
  'kl': base.term('forward_kl', part='answer'),
  # Random, so it is left out of the total.
  'noisy': base.term('hidden_states', pairs=1, dropout=0.5, weight=0.0),
}


def _batch(rows, length=4):
  rng = np.random.default_rng(0)
  tokens = rng.integers(4, _VOCAB, (2, rows, length)).astype(np.int32)
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


def _targets(rows, length=4):
  """Returns targets that differ in every row."""
  rng = np.random.default_rng(1)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  hidden, layer = normal(rows, length, _WIDTH), normal(1, rows, length, _WIDTH)
  dense = dense_distributions.DenseTeacher(
    hidden, normal(_VOCAB, _WIDTH), jnp.float32(1.0)
  )
  return distributions.Targets(
    dense_distributions.DenseMixture((dense,)),
    types.Taps(layer, None, None, None),
  )


@functools.cache
def _make(dtype, micro_batches, keys, layer_dropout=0.0):
  """Returns the update of these terms and its initial state."""
  model = families.build(_SIZES, dtype, 'none', '')
  lr = base.schedule('warmup_linear', peak=1.0, warmup_steps=4, final=0.0)
  optimizer, rate = optimizers.build(base.adamw(lr).to_dict(), 12)
  sizes = model_sizes.term_sizes(_SIZES)
  context = terms_lib.Context(steps=12, student=sizes, teacher=sizes)
  terms = term_builder.build({k: _TERMS[k].to_dict() for k in keys}, context)
  objective = objective_lib.Objective(terms, selection.everywhere(), 64)
  step = update.make(
    model, objective, optimizer, rate, micro_batches, layer_dropout
  )
  rng = np.random.default_rng(2)
  params = jax.tree.map(
    lambda x: (rng.normal(size=x.shape) / 4).astype(np.float32),
    model.abstract_params(),
  )
  return jax.jit(step), update.init_state(params, objective, optimizer, 0)


def test_the_rate_counts_updates_and_not_micro_batches():
  step, state = _make('float32', 2, _ALL)
  seen = []
  for _ in range(12):
    state, out = step(state, _batch(4), _targets(4))
    seen.append(float(out.scalars['lr']))
  expected = [k / 4 for k in range(4)] + [1 - k / 8 for k in range(8)]
  np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_many_bfloat16_micro_batches_add_up_in_float32():
  norms = []
  for micro_batches in (1, 64):
    step, state = _make('bfloat16', micro_batches, _LABELS)
    # With 64 equal rows, the gradient of each part is 1 / 64 of the whole.
    rows = jax.tree.map(lambda x: jnp.repeat(x, 64, axis=0), _batch(1))
    _, out = step(state, rows, None)
    norms.append(float(out.scalars['grad_norm']))
  np.testing.assert_allclose(norms[1], norms[0], rtol=3e-3)


def test_micro_batches_of_different_weight_change_nothing():
  """A mean over the batch is not the mean of its parts' means."""
  weights = np.float32([[1, 1, 1, 1], [0, 3, 0, 0], [9, 1, 0, 2], [0, 0, 0, 1]])
  parts = np.int32([[0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
  batch = _batch(4).replace(weights=weights, parts=parts)
  seen = []
  for micro_batches in (1, 2):
    step, state = _make('float32', micro_batches, _ALL)
    _, out = step(state, batch, _targets(4))
    del out.sums['noisy'], out.scalars['lr']
    seen.append([out.sums, out.totals, out.scalars])
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5),
    *reversed(seen),
  )


def test_each_micro_batch_and_each_step_has_its_own_random_key():
  step, state = _make('float32', 2, _ALL)
  # Pairs of rows, one in each micro-batch, that differ only by their key.
  targets = _targets(4)
  pair = lambda x: np.repeat(x[:2], 2, axis=0)
  layer = np.stack([pair(x) for x in targets.taps.hidden])
  targets = targets.replace(taps=targets.taps.replace(hidden=layer))
  batch = jax.tree.map(pair, _batch(4))
  seen = {}
  for row in range(2):
    counted = (np.arange(4) == row)[:, None].astype(np.float32)
    one = batch.replace(weights=batch.weights * counted)
    for number in range(2):
      _, out = step(state.replace(step=jnp.int32(number)), one, targets)
      seen[row, number] = out.sums['hidden'], out.sums['noisy']
  same, noisy = np.transpose([*seen.values()])
  np.testing.assert_allclose(same, same[0], rtol=1e-6)
  assert len(set(noisy)) == len(noisy), noisy


def test_layers_are_skipped_per_row():
  rate, batch, losses = 0.5, _batch(4), {}
  step, state = _make('float32', 2, _LABELS, rate)
  model = families.build(_SIZES, 'float32', 'none', '')

  @jax.jit
  def loss_by_row(weight):
    weights = jnp.full((1, 4), weight)
    hidden, _ = model.forward(
      state.params, batch, types.TapSpec((), ()), weights
    )
    logits = hidden @ model.unembedding(state.params).T
    logprobs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logprobs, batch.targets[..., None], -1)
    return -jnp.sum(picked, axis=(1, 2))

  kept, skipped = loss_by_row(1 / (1 - rate)), loss_by_row(0.0)
  for row in range(4):
    counted = (np.arange(4) == row)[:, None].astype(np.float32)
    one = batch.replace(weights=batch.weights * counted)
    losses[row] = [
      float(step(state.replace(step=jnp.int32(k)), one, None)[1].sums['ce'])
      for k in range(8)
    ]
  ran = np.array([np.isclose(losses[i], kept[i], rtol=1e-5) for i in range(4)])
  fell = [np.isclose(losses[i], skipped[i], rtol=1e-5) for i in range(4)]
  np.testing.assert_array_equal(ran, ~np.array(fell))
  # Rows of one batch differ, and so do steps.
  assert ran.any(0).any() and not ran.all(0).all()
  assert len({tuple(x) for x in ran}) > 1 and len({tuple(x) for x in ran.T}) > 1
