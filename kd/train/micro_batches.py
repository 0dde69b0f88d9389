"""Accumulates the gradients of a batch over micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import logits_objective
from kd.losses import objective as objective_lib


def split_rows(tree: types.PyTree, parts: int) -> types.PyTree:
  """Reshapes leaves [B, ...] to [parts, B / parts, ...].

  Part m has rows m, m + parts, ...: each device keeps its own rows, so no data
  moves between devices.
  """

  def split(x):
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1)

  return jax.tree.map(split, tree)


def _split_targets(targets, parts):
  """Splits targets by row; returns the parts and a function to rebuild them."""
  if targets is None:
    return None, lambda rows: None
  arrays = targets.distribution.per_position()
  shown = targets.taps and jax.tree.map(
    lambda x: jnp.moveaxis(x, 1, 0), targets.taps
  )

  def rebuild(rows):
    arrays, shown = rows
    return targets.replace(
      distribution=targets.distribution.with_positions(arrays),
      taps=shown and jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), shown),
    )

  return split_rows((arrays, shown), parts), rebuild


def accumulate(
  loss: Callable[..., Any],
  objective: objective_lib.Objective,
  micro_batches: int,
) -> Callable[..., Any]:
  """Returns the function that computes the gradient of a batch.

  Args:
    loss: function from (trained, ranges, frozen, batch, targets, settings,
      layer maps, key) to the total and Sums.
    objective: the training objective.
    micro_batches: number of micro-batches per batch.

  Returns:
    A function of the same arguments. It returns the gradient with respect to
    `trained`, summed over micro-batches; the largest inputs that running_ranges
    observes in any of them, as a tree like `ranges`; and the summed Sums.
  """
  gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)

  def observed_gradient(*arguments):
    (grads, largest), sums = gradient(*arguments)
    return grads, largest, sums

  if micro_batches == 1:
    return observed_gradient

  def accumulate_parts(
    trained, ranges, frozen, batch, targets, settings, layer_maps, key
  ):
    target_rows, rebuild = _split_targets(targets, micro_batches)

    def body(carry, part):
      rows, part_targets, part_key = part
      grads, largest, sums = observed_gradient(
        *(trained, ranges, frozen, rows, rebuild(part_targets)),
        *(settings, layer_maps, part_key),
      )
      return (
        jax.tree.map(jnp.add, carry[0], grads),
        jax.tree.map(jnp.maximum, carry[1], largest),
        jax.tree.map(jnp.add, carry[2], sums),
      ), None

    none = logits_objective.zero_sums(
      objective.terms,
      targets and targets.distribution,
      by_modality=batch.images is not None,
      weighted=batch.sampling_logprobs is not None,
      teacher_weights=batch.teacher_weights,
    )
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, jnp.float32), (trained, ranges, none)
    )
    keys = jax.random.split(key, micro_batches)
    parts = split_rows(batch, micro_batches), target_rows, keys
    return jax.lax.scan(body, zeros, parts)[0]

  return accumulate_parts
