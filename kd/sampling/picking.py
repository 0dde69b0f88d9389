"""Picks the next ids: penalty, temperature, filters and random draws."""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import probability
from kd.core import types
from kd.sampling import requests

Array = types.Array

_BLOCK = 512  # Ids per block; see probability.draw_by_blocks.


@dataclasses.dataclass(frozen=True)
class Options:
  """Static sampling options, which are compiled into the program.

  Attributes:
    draws: whether ids are drawn; otherwise the most likely one is taken.
    top_k: see requests.SamplingSettings; 0: all ids.
    top_p: whether top_p excludes ids.
    min_p: whether min_p excludes ids.
    repeats: whether the repetition penalty is not 1.
  """

  draws: bool
  top_k: int
  top_p: bool
  min_p: bool
  repeats: bool


@struct.dataclass
class Parameters:
  """Traced sampling parameters of requests.SamplingSettings, float32 []."""

  temperature: Array
  top_p: Array
  min_p: Array
  repetition_penalty: Array


def options(settings: requests.SamplingSettings, vocab_size: int) -> Options:
  """Returns the static options of `settings` for V = vocab_size."""
  draws = settings.temperature > 0
  return Options(
    draws=draws,
    top_k=settings.top_k if draws and settings.top_k < vocab_size else 0,
    top_p=draws and settings.top_p < 1,
    min_p=draws and settings.min_p > 0,
    repeats=settings.repetition_penalty != 1,
  )


def parameters(settings: requests.SamplingSettings) -> Parameters:
  """Returns the traced parameters of `settings`."""
  fields = (field.name for field in dataclasses.fields(Parameters))
  return Parameters(**{f: np.float32(getattr(settings, f)) for f in fields})


def pick(
  static: Options, traced: Parameters, logits: Array, held: Array, keys: Array
) -> Array:
  """Picks the next id of each row.

  The repetition penalty is applied first, then temperature, top-k, top-p of
  what top-k left, and min-p.

  Args:
    static: the static options.
    traced: the traced parameters.
    logits: float32 [B, V], minus infinity for ids that must not be picked.
    held: bool [B, V], ids that the row contains; read if static.repeats.
    keys: random keys [B]; read if static.draws.

  Returns:
    int32 [B].
  """
  if static.repeats:
    penalty = traced.repetition_penalty
    worse = jnp.where(logits > 0, logits / penalty, logits * penalty)
    logits = jnp.where(held, worse, logits)
  if not static.draws:
    return most_likely(logits)
  top = jnp.max(logits, axis=-1, keepdims=True)
  mass = jnp.exp((logits - top) / traced.temperature)
  return _draw(_filter(static, traced, mass), keys)


def pick_by_row(traced: Parameters, logits: Array, keys: Array) -> Array:
  """Picks the next id of each row with the parameters of the row.

  The result is that of `pick` with the same parameters.

  Args:
    traced: temperature, top_p and min_p float32 [B]; a temperature of 0 takes
      the most likely id.
    logits: float32 [B, V], minus infinity for ids that must not be picked.
    keys: random keys [B].

  Returns:
    int32 [B].
  """
  draws = traced.temperature > 0

  def drawn():
    top = jnp.max(logits, axis=-1, keepdims=True)
    temperature = jnp.where(draws, traced.temperature, 1.0)[:, None]
    mass = jnp.exp((logits - top) / temperature)
    filters = (draws & (traced.top_p < 1))[:, None]

    def threshold():
      wanted = traced.top_p[:, None] * jnp.sum(mass, axis=-1, keepdims=True)
      return jnp.where(filters, probability.nucleus_threshold(mass, wanted), 0)

    least = jax.lax.cond(
      jnp.any(filters), threshold, lambda: jnp.zeros_like(top)
    )
    least = jnp.maximum(least, traced.min_p[:, None])
    ids = _draw(jnp.where(mass >= least, mass, 0.0), keys)
    return jnp.where(draws, ids, most_likely(logits))

  # Skips the draws for greedy batches, which are usual in evaluations.
  return jax.lax.cond(jnp.any(draws), drawn, lambda: most_likely(logits))


def most_likely(logits: Array) -> Array:
  """Returns the first of the highest logits in each row [B, V]: int32 [B]."""
  # Twice as fast on CPU as argmax.
  v = logits.shape[-1]
  highest = logits == jnp.max(logits, axis=-1, keepdims=True)
  ids = jnp.arange(v, dtype=jnp.int32)
  # In a row with NaN, no logit equals the highest.
  return jnp.minimum(jnp.min(jnp.where(highest, ids, v), axis=-1), v - 1)


def _filter(static, traced, mass):
  """Sets the mass of excluded ids to 0; the highest mass is 1."""
  if not (static.top_k or static.top_p or static.min_p):
    return mass
  least = jnp.zeros((mass.shape[0],), jnp.float32)
  if static.top_k:
    best, _ = jax.lax.top_k(mass, static.top_k)
    least = best[:, -1]
    if static.top_p:
      wanted = traced.top_p * jnp.sum(best, axis=-1, keepdims=True)
      inside = probability.in_sorted_nucleus(best, wanted)
      size = jnp.sum(inside, axis=-1, keepdims=True)
      least = jnp.take_along_axis(best, size - 1, axis=-1)[:, 0]
  elif static.top_p:
    wanted = traced.top_p * jnp.sum(mass, axis=-1, keepdims=True)
    least = probability.nucleus_threshold(mass, wanted)[:, 0]
  if static.min_p:
    least = jnp.maximum(least, traced.min_p)
  return jnp.where(mass >= least[:, None], mass, 0.0)


def _draw(mass: Array, keys: Array) -> Array:
  """Draws an id of each row of masses [B, V]: int32 [B]."""
  rows, v = mass.shape
  blocks = jnp.pad(mass, ((0, 0), (0, -v % _BLOCK))).reshape(rows, -1, _BLOCK)
  uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
  ids = probability.draw_by_blocks(
    jnp.sum(blocks, axis=-1),
    lambda chosen: jnp.take_along_axis(blocks, chosen[:, :, None], axis=1),
    uniform[:, :, None],
  )
  # A row with NaN draws no id.
  return jnp.minimum(ids[:, 0], v - 1)
