"""One optimizer update as a pure function."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from kd.core import types
from kd.losses import objective
from kd.losses import terms as terms_lib
from kd.models import gemma3
from kd.optimizers import schedules

Array = types.Array


@struct.dataclass
class TrainState:
  """What a checkpoint holds.

  Attributes:
    step: int32 [], updates applied or skipped so far.
    params: the student's parameters, float32.
    opt_state: the optimizer's.
    rng: key data; step k uses fold_in(rng, k).
  """

  step: Array
  params: types.PyTree
  opt_state: Any
  rng: Array


@struct.dataclass
class Output:
  """What an update reports.

  Attributes:
    sums: by term, the sum over target tokens of weight x loss, in nats.
    weight: the sum of target weights.
    scalars: norms and the learning rate.
    finite: whether every sum and the gradient's norm were finite; the
      parameters change only if so.
  """

  sums: dict[str, Array]
  weight: Array
  scalars: dict[str, Array]
  finite: Array


def init_state(
  params: types.PyTree, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """The state before the first update."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    rng=jax.random.key_data(jax.random.key(seed)),
  )


def split_rows(tree: types.PyTree, parts: int) -> types.PyTree:
  """[B, ...] leaves to [parts, B / parts, ...].

  Part m takes rows m, m + parts, ...: on each device its own rows, so that
  nothing moves between devices.
  """

  def split(x):
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1)

  return jax.tree.map(split, tree)


def make(
  model: gemma3.Gemma3,
  terms: Sequence[terms_lib.Term],
  optimizer: optax.GradientTransformation,
  rate: schedules.Schedule,
  chunk_tokens: int,
  micro_batches: int,
) -> Callable[
  [TrainState, types.Batch, types.Targets | None], tuple[TrainState, Output]
]:
  """Builds the update.

  Args:
    model: the student.
    terms: the objective's terms.
    optimizer: the gradient transformation.
    rate: the learning rate by update, for the metrics.
    chunk_tokens: see objective.objective.
    micro_batches: parts of a batch whose gradients are summed.

  Returns:
    A function of (state, batch, targets) to be jitted.
  """

  def loss(params, batch, targets, scales):
    hidden, _ = model.apply(
      {'params': params}, batch.tokens, batch.positions, batch.segment_ids
    )
    return objective.objective(
      terms,
      hidden,
      params['embedding'],
      targets,
      batch,
      scales,
      chunk_tokens,
    )

  gradient = jax.grad(loss, has_aux=True)

  def accumulate(params, batch, targets, scales):
    if micro_batches == 1:
      return gradient(params, batch, targets, scales)
    hidden = split_rows(targets and targets.final_hidden, micro_batches)

    def body(carry, part):
      rows, hidden_t = part
      part_targets = targets and targets.replace(final_hidden=hidden_t)
      new = gradient(params, rows, part_targets, scales)
      return jax.tree.map(jnp.add, carry, new), None

    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, jnp.float32),
      (params, {term.key: jnp.zeros(()) for term in terms}),
    )
    parts = split_rows(batch, micro_batches), hidden
    return jax.lax.scan(body, zeros, parts)[0]

  def update(state, batch, targets):
    weight = jnp.sum(batch.weights)
    scales = objective.scales(terms, weight)
    grads, sums = accumulate(state.params, batch, targets, scales)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(grad_norm)
    for value in sums.values():
      finite &= jnp.isfinite(value)
    keep = lambda new, old: jnp.where(finite, new, old)
    new_state = state.replace(
      step=state.step + 1,
      params=jax.tree.map(keep, params, state.params),
      opt_state=jax.tree.map(keep, opt_state, state.opt_state),
    )
    scalars = {
      'grad_norm': grad_norm,
      'update_norm': optax.tree.norm(updates),
      'param_norm': optax.tree.norm(state.params),
      'lr': jnp.asarray(rate(state.step), jnp.float32),
    }
    return new_state, Output(sums, weight, scalars, finite)

  return update
