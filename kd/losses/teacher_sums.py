"""Sums by teacher, where examples are divided among teachers."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from kd.core import types

Array = types.Array


def of(values: Array, teacher_weights: Array) -> Array:
  """Sums values [...] of targets by teacher: float32 [n].

  Args:
    values: value of each target.
    teacher_weights: float32 [..., n], see types.Batch.
  """
  # A value may be NaN where the teacher has no weight.
  each = jnp.where(teacher_weights > 0, values[..., None], 0.0)
  return jnp.sum(each * teacher_weights, axis=tuple(range(values.ndim)))


def named(
  by_term: Mapping[str, Array], teachers: Sequence[str]
) -> dict[str, Array]:
  """Returns the sums [n] of each term by the names of term and teacher."""
  return {
    f'{key}/{name}': sums[i]
    for key, sums in by_term.items()
    for i, name in enumerate(teachers)
  }


def scalars(batch: types.Batch, teachers: Sequence[str]) -> dict[str, Array]:
  """Returns each teacher's share of the targets, by weight, for metrics."""
  if batch.teacher_weights is None:
    return {}
  shares = of(batch.weights, batch.teacher_weights)
  shares /= jnp.maximum(jnp.sum(batch.weights), 1e-30)
  return {f'teacher_share/{name}': shares[i] for i, name in enumerate(teachers)}
