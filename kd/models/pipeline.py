"""Runs layers in stages on separate devices (GPipe, arXiv 1811.06965).

The rows of a batch are cut into M micro-batches, which pass through P stages:
at tick t, stage p computes micro-batch t - p and then sends it to stage p + 1.
A pass takes M + P - 1 ticks, in P - 1 of which a stage is idle. The gradient of
a pass runs through the stages backwards.

Outside of the layers the stages share the rows, so each starts with M / P of
the micro-batches. At every tick these move one stage towards the first, which
takes its next one from them, and the last stage appends its results.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from kd.core import types
from kd.partitioning import rules

Array = types.Array
# Maps the stage's number, its parameters, x [b, L, D] and other arrays of these
# rows to [b, L, D] and a tree of [periods of the stage, b, ...].
Stage = Callable[[Array, types.PyTree, Array, Any], tuple[Array, Any]]

_ROW_AXES = ('batch', 'length', None)
_SLOT_AXES = ('micro_batches', 'micro_batch', 'length', None)

# Micro-batches per stage, if there are enough rows: bubbles of 20 % or less.
_PER_STAGE = 4


def micro_batches(wanted: int, rows: int, stages: int) -> int:
  """Returns M, the number of micro-batches of a pass.

  Args:
    wanted: the largest legal M; 0 for a default number per stage.
    rows: number of rows of a batch in one row shard of all stages together.
    stages: P, which divides `rows`.
  """
  limit = wanted or _PER_STAGE * stages
  return max(
    m
    for m in range(stages, rows + 1, stages)
    if rows % m == 0 and m <= max(limit, stages)
  )


def run(
  stage: Stage,
  params: types.PyTree,
  x: Array,
  rows: types.PyTree,
  wanted: int,
) -> tuple[Array, types.PyTree]:
  """Runs layers in the stages of the active mesh.

  Args:
    stage: runs one stage's layers.
    params: arrays of all layers, whose first axis is split over the stages.
    x: [B, L, D], the first layer's input.
    rows: other arrays [B, ...] of the rows, which have no gradient.
    wanted: see micro_batches.

  Returns:
    [B, L, D], the last layer's output, and the tree that the stages return, of
    [periods, B, ...].
  """
  stages = rules.active_stages()
  count = micro_batches(
    wanted, x.shape[0] // rules.shards('micro_batch', x.shape[0]), stages
  )
  ticks = count + stages - 1
  cut = lambda a: _cut(a, stages, count)

  def each(params, slots, rows):
    number = jax.lax.axis_index(rules.PIPELINE)

    def run_tick(carry, tick):
      slots, received = carry
      slot, own = tick % len(slots), tick - number
      held = jax.lax.dynamic_index_in_dim(slots, slot, keepdims=False)
      is_real = (own >= 0) & (own < count)
      own = jnp.clip(own, 0, count - 1)
      # Layers map zeros to zeros, so a bubble has no infinite values, which a
      # gradient of 0 would make NaN.
      x = jnp.where(is_real, jnp.where(number == 0, held, received), 0)
      x = rules.constrain(x, _ROW_AXES)
      y, shown = stage(number, params, x, jax.tree.map(lambda a: a[own], rows))
      received = _sent(y, [(i, i + 1) for i in range(stages - 1)])
      moved = _sent(held, [(i + 1, i) for i in range(stages - 1)])
      moved = jnp.where(number == stages - 1, y, moved)
      slots = jax.lax.dynamic_update_index_in_dim(slots, moved, slot, 0)
      return (slots, received), shown

    first = slots, jnp.zeros_like(slots[0])
    (slots, _), shown = jax.lax.scan(run_tick, first, jnp.arange(ticks))
    shown = jax.tree.map(functools.partial(_by_row, number, count), shown)
    return jnp.roll(slots, 1 - stages, axis=0), shown

  slots = rules.constrain(cut(x), _SLOT_AXES)
  y, shown = rules.map_stages(each, (True, True, False), (True, True))(
    params, slots, jax.tree.map(cut, rows)
  )
  y = rules.constrain(_joined(y, 0, stages), _ROW_AXES)
  shown = jax.tree.map(
    lambda a: _joined(jnp.moveaxis(a, 1, 0), 1, stages), shown
  )
  return y, shown


def _by_row(number, count, x):
  """Exchanges all rows of this stage's layers for some rows of all layers.

  Args:
    number: number of this stage.
    count: M, number of micro-batches of a pass.
    x: [ticks, periods of this stage, b, ...].

  Returns:
    [M / P, periods, b, ...].
  """
  own = jax.lax.dynamic_slice_in_dim(x, number, count)
  return jax.lax.all_to_all(own, rules.PIPELINE, 0, 1, tiled=True)


def _sent(x, pairs):
  """Sends x between pairs of stages; a stage that receives none gets zeros."""
  return jax.lax.ppermute(x, rules.PIPELINE, pairs)


def _cut(x, stages, count):
  """Cuts rows into micro-batches: [B, ...] to [M, b, ...].

  Each stage has M / P of them, and each of its devices has rows of all these.
  """
  x = x.reshape(stages, -1, count // stages, *x.shape[1:])
  return jnp.swapaxes(x, 1, 2).reshape(count, -1, *x.shape[3:])


def _joined(x, axis, stages):
  """Joins micro-batches: [..., M, b, ...] to [..., B, ...]."""
  before, (count, size) = x.shape[:axis], x.shape[axis : axis + 2]
  after = x.shape[axis + 2 :]
  x = x.reshape(*before, stages, count // stages, size, *after)
  x = jnp.swapaxes(x, axis + 1, axis + 2)
  return x.reshape(*before, count * size, *after)
