"""From logits to ids: filters, and draws with each row's own key."""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import types
from kd.sampling import requests

Array = types.Array

# Ids are drawn in two steps, first one of the blocks of this size: a single
# float32 could not tell unlikely ids of a large vocabulary apart.
_BLOCK = 512
_STEPS = 30  # of a search among the floats from 0 to 1


@dataclasses.dataclass(frozen=True)
class Rule:
  """What of picking is compiled in.

  Attributes:
    draws: ids are drawn; False: the most likely one is taken.
    top_k: see requests.SamplingSettings.
    top_p: some ids are ruled out by it.
    min_p: likewise.
    repeats: the repetition penalty is not 1.
  """

  draws: bool
  top_k: int
  top_p: bool
  min_p: bool
  repeats: bool


@struct.dataclass
class Numbers:
  """What of requests.SamplingSettings is not compiled in: each float32 []."""

  temperature: Array
  top_p: Array
  min_p: Array
  repetition_penalty: Array


def rule(settings: requests.SamplingSettings, vocab_size: int) -> Rule:
  """What `settings` asks of the program, for V = vocab_size."""
  draws = settings.temperature > 0
  return Rule(
    draws=draws,
    top_k=settings.top_k if draws and settings.top_k < vocab_size else 0,
    top_p=draws and settings.top_p < 1,
    min_p=draws and settings.min_p > 0,
    repeats=settings.repetition_penalty != 1,
  )


def numbers(settings: requests.SamplingSettings) -> Numbers:
  """What `settings` gives the program."""
  fields = (field.name for field in dataclasses.fields(Numbers))
  return Numbers(**{f: np.float32(getattr(settings, f)) for f in fields})


def pick(
  how: Rule, by: Numbers, logits: Array, held: Array, keys: Array
) -> Array:
  """Chooses the next id of each row.

  The penalty comes first, then temperature, top-k, top-p of what that left, and
  min-p.

  Args:
    how: compiled in.
    by: the numbers.
    logits: float32 [B, V], minus infinity where an id must not come.
    held: bool [B, V], ids that the row has; read if how.repeats.
    keys: random keys [B]; read if how.draws.

  Returns:
    int32 [B].
  """
  if how.repeats:
    penalty = by.repetition_penalty
    worse = jnp.where(logits > 0, logits / penalty, logits * penalty)
    logits = jnp.where(held, worse, logits)
  if not how.draws:
    return most_likely(logits)
  top = jnp.max(logits, axis=-1, keepdims=True)
  mass = jnp.exp((logits - top) / by.temperature)
  return _draw(_filter(how, by, mass), keys)


def most_likely(logits: Array) -> Array:
  """The first of the highest logits of each row of [B, V]: int32 [B]."""
  # Twice as fast on CPU as argmax.
  v = logits.shape[-1]
  highest = logits == jnp.max(logits, axis=-1, keepdims=True)
  ids = jnp.arange(v, dtype=jnp.int32)
  # Where a row has NaN, none is highest.
  return jnp.minimum(jnp.min(jnp.where(highest, ids, v), axis=-1), v - 1)


def _filter(how, by, mass):
  """Sets the mass of ids that are ruled out to 0; the highest is 1."""
  if not (how.top_k or how.top_p or how.min_p):
    return mass
  least = jnp.zeros((mass.shape[0],), jnp.float32)
  if how.top_k:
    best, _ = jax.lax.top_k(mass, how.top_k)
    least = best[:, -1]
    if how.top_p:
      before = jnp.cumsum(best, axis=-1) - best
      wanted = by.top_p * jnp.sum(best, axis=-1, keepdims=True)
      inside = jnp.sum(before < wanted, axis=-1, keepdims=True)
      least = jnp.take_along_axis(best, inside - 1, axis=-1)[:, 0]
  elif how.top_p:
    least = _least_of_nucleus(mass, by.top_p)
  if how.min_p:
    least = jnp.maximum(least, by.min_p)
  return jnp.where(mass >= least[:, None], mass, 0.0)


def _least_of_nucleus(mass: Array, share: Array) -> Array:
  """The highest x [B] such that ids of mass x or more have that share of it.

  It is searched for bit by bit, since sorting a vocabulary is slow: the bits of
  floats above 0 are in the floats' order.
  """
  bits = jax.lax.bitcast_convert_type(mass, jnp.int32)
  wanted = share * jnp.sum(mass, axis=-1)

  def step(i, least):
    higher = least | (1 << (_STEPS - 1 - i))
    inside = jnp.where(bits >= higher[:, None], mass, 0.0)
    return jnp.where(jnp.sum(inside, axis=-1) >= wanted, higher, least)

  start = jnp.zeros((mass.shape[0],), jnp.int32)
  found = jax.lax.fori_loop(0, _STEPS, step, start)
  return jax.lax.bitcast_convert_type(found, jnp.float32)


def _draw(mass: Array, keys: Array) -> Array:
  """An id of each row of [B, V], by its share of the row's mass: int32 [B]."""
  rows, v = mass.shape
  uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
  blocks = jnp.pad(mass, ((0, 0), (0, -v % _BLOCK))).reshape(rows, -1, _BLOCK)
  block = _draw_one(jnp.sum(blocks, axis=-1), uniform[:, 0])
  inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
  return block * _BLOCK + _draw_one(inside, uniform[:, 1])


def _draw_one(mass: Array, uniform: Array) -> Array:
  """The column of [B, n] in which the share `uniform` [B] of the mass ends."""
  sums = jnp.cumsum(mass, axis=-1)
  # What has no mass is never drawn, however the sums were rounded.
  ends = (sums > uniform[:, None] * sums[:, -1:]) & (mass > 0)
  first = jnp.argmax(ends, axis=-1)
  found = jnp.any(ends, axis=-1)
  return jnp.where(found, first, jnp.argmax(mass, axis=-1)).astype(jnp.int32)
