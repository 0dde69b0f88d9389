"""Heads of random rows, and their loss in float64 numpy with whole maps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import attention_mask
from kd.losses import attention_maps

# Two segments and padding; one segment that fills the row.
LENGTHS = ((4, 2), (7,))


def rows(lengths, length):
  """Positions and segment ids of rows with segments of these lengths."""
  positions = np.zeros((len(lengths), length), np.int32)
  segment_ids = np.zeros((len(lengths), length), np.int32)
  for row, segments in enumerate(lengths):
    start = 0
    for number, size in enumerate(segments):
      positions[row, start : start + size] = np.arange(size)
      segment_ids[row, start : start + size] = number + 1
      start += size
  return positions, segment_ids


def normal(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


def make_heads(batch, length, n, g, h, seed=0, scale=0.6):
  query = normal(batch, length, n, h, seed=seed, scale=2)
  key = normal(batch, length, g, h, seed=seed + 1)
  return attention_maps.Heads(query, key, scale)


def log_maps(heads, visible, temperature):
  """[B, N, L, L], -inf where nothing is seen; rows of padding are NaN."""
  query, key = (np.asarray(x, np.float64) for x in heads[:2])
  key = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
  logits = np.einsum('bqnh,bknh->bnqk', query, key) * heads.scale / temperature
  logits = np.where(visible[:, None], logits, -np.inf)
  with np.errstate(invalid='ignore'):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def reference(
  student,
  teacher,
  positions,
  segment_ids,
  window,
  temperature,
  heads='each',
  distance='kl',
  image_ids=None,
):
  apart = positions[:, :, None] - positions[:, None]
  visible = apart >= 0
  if image_ids is not None:
    same = image_ids[:, :, None] == image_ids[:, None]
    visible |= same & (image_ids[:, None] > 0)
  visible &= apart < (window or math.inf)
  visible &= segment_ids[:, :, None] == segment_ids[:, None]
  visible &= segment_ids[:, None] > 0
  log_p, log_q = (log_maps(x, visible, temperature) for x in (teacher, student))
  with np.errstate(invalid='ignore'):
    if heads == 'mean':
      mean = lambda x: np.logaddexp.reduce(x, 1, keepdims=True)
      log_p, log_q = (mean(x) - math.log(x.shape[1]) for x in (log_p, log_q))
    p, q = np.exp(log_p), np.exp(log_q)
    if distance == 'cosine':
      norms = np.linalg.norm(p, axis=-1) * np.linalg.norm(q, axis=-1)
      angle = (1 - (p * q).sum(-1) / norms).mean(1)
      return np.where(segment_ids > 0, angle, 0)
    kl = np.where(p > 0, p * (log_p - log_q), 0).sum(-1).mean(1)
  return temperature**2 * np.where(segment_ids > 0, kl, 0)


def differences(function, x):
  """The gradient of function at x, float64, by central differences."""
  x = np.asarray(x, np.float64)
  gradient = np.zeros(x.shape)
  for place in np.ndindex(x.shape):
    ends = []
    for step in (1e-6, -1e-6):
      moved = x.copy()
      moved[place] += step
      ends.append(function(moved))
    gradient[place] = (ends[0] - ends[1]) / 2e-6
  return gradient


@functools.partial(
  jax.jit,
  static_argnames=('window', 'heads', 'block', 'distance', 'image_tokens'),
)
def run(
  student,
  teacher,
  where,
  weights,
  temperature,
  window,
  heads,
  block,
  distance='kl',
  image_tokens=0,
):
  """Losses, and the weighted sum's gradients by all queries and keys."""

  def total(student, teacher):
    losses = attention_maps.map_loss(
      student,
      teacher,
      attention_mask.Positions(*where),
      window=window,
      temperature=temperature,
      heads=heads,
      block=block,
      image_tokens=image_tokens,
      distance=distance,
    )
    return jnp.sum(losses * weights), losses

  gradients, losses = jax.grad(total, argnums=(0, 1), has_aux=True)(
    student, teacher
  )
  return losses, [(x.query, x.key) for x in gradients]
