"""Rows, arrays and the exact formula for attention's tests."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import attention_mask

SCALE = 0.25  # A power of two, as of all models but the largest.
HEADS = 4


def places(*lengths, left=0, right=0):
  """Returns Positions [1, L] of packed texts between paddings."""
  positions = np.concatenate([np.arange(n) for n in lengths])
  ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
  padded = [np.pad(x, (left, right))[None] for x in (positions, ids)]
  return attention_mask.Positions(*(jnp.asarray(x, jnp.int32) for x in padded))


def heads(length, seed=0):
  """Query, key, value and the gradient of the output."""
  random = np.random.default_rng(seed)
  counts = (HEADS, 2, 2, HEADS)
  return [random.normal(size=(1, length, n, 8)) for n in counts]


def run(attend, arrays, dtype=jnp.float32):
  """Returns attention, and its gradients by query, key and value."""
  *inputs, gradient = (jnp.asarray(x, dtype) for x in arrays)
  out, pull = jax.vjp(jax.jit(attend), *inputs)
  return [np.asarray(x, np.float64) for x in (out, *pull(gradient))]


def exact(arrays, seen):
  """Returns the same in float64, head by head; seen [L, L]."""
  query, key, value, gradient = (x[0] for x in arrays)
  made = [np.zeros_like(x) for x in (query, query, key, value)]
  for n in range(query.shape[1]):
    g = n // (query.shape[1] // key.shape[1])
    q, k, v, d = query[:, n], key[:, g], value[:, g], gradient[:, n]
    probs = np.where(seen, np.exp(q @ k.T * SCALE), 0)
    probs /= np.maximum(probs.sum(-1, keepdims=True), 1e-300)
    d_probs = d @ v.T
    mean = (probs * d_probs).sum(-1, keepdims=True)
    d_scores = probs * (d_probs - mean) * SCALE
    made[0][:, n] = probs @ v
    made[1][:, n] = d_scores @ k
    made[2][:, g] += d_scores.T @ q
    made[3][:, g] += probs.T @ d
  return [x[None] for x in made]


def seen(places, window):
  """Returns whether queries see keys, [L, L], by the definition of the mask."""
  ids = np.asarray(places.segment_ids)[0]
  i, j = np.ogrid[: len(ids), : len(ids)]
  near = i - j < (window or len(ids))
  return (ids[:, None] == ids) & (ids[:, None] > 0) & (j <= i) & near
