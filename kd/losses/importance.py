"""Truncated importance weights of tokens that older parameters sampled.

A token sampled from a policy q has the weight min(c, p / q) for a policy p
(arXiv 1802.01561).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from kd.core import types

Array = types.Array


@dataclasses.dataclass(frozen=True)
class Importance:
  """The weighting of tokens that the student sampled.

  Attributes:
    cap: c, the largest weight.
    vocab_size: number of ids, from id 0, that the student samples from; None
      for all.
  """

  cap: float
  vocab_size: int | None = None


def build(rollout: Any) -> Importance | None:
  """Returns the weighting of the config's `rollout`, or None without one.

  Args:
    rollout: the section; None if the student samples nothing.
  """
  if rollout is None or not rollout.importance_cap:
    return None
  return Importance(rollout.importance_cap)


def weights(
  rule: Importance,
  logits: Array,
  labels: Array,
  sampled: Array,
  logprobs: Array,
) -> tuple[Array, Array]:
  """Computes the importance weights, which carry no gradient.

  Args:
    rule: the weighting.
    logits: float32 [T, V], the student's logits.
    labels: int32 [T], the tokens.
    sampled: bool [T], whether the student sampled the token; other tokens have
      weight 1.
    logprobs: float32 [T], log-probabilities at the time of sampling.

  Returns:
    float32 [T], the weights; and bool [T], whether each is truncated.
  """
  logits = jax.lax.stop_gradient(logits)
  if rule.vocab_size is not None:
    is_id = jnp.arange(logits.shape[-1]) < rule.vocab_size
    logits = jnp.where(is_id, logits, -jnp.inf)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  log_p = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0] - log_z
  ratio, most = log_p - logprobs, jnp.log(jnp.float32(rule.cap))
  weight = jnp.where(sampled, jnp.exp(jnp.minimum(ratio, most)), 1.0)
  return weight, sampled & (ratio > most)


def sums(weight: Array, truncated: Array, counted: Array) -> Array:
  """Returns the sums of weights, truncations and tokens, float32 [3].

  Args:
    weight: float32 [T].
    truncated: bool [T].
    counted: bool [T], whether a token is sampled and counts.
  """
  kept = jnp.stack(
    [weight, truncated.astype(jnp.float32), jnp.ones_like(weight)]
  )
  return jnp.sum(jnp.where(counted, kept, 0.0), axis=1)


def scalars(total: Array | None) -> dict[str, Array]:
  """Returns metrics; {} without importance weights.

  Args:
    total: `sums` over a batch; None without importance weights.
  """
  if total is None:
    return {}
  weight, truncated, count = total
  some = jnp.maximum(count, 1.0)
  return {
    'rollout/importance_weight': jnp.where(count > 0, weight / some, 1.0),
    'rollout/importance_truncated': truncated / some,
  }
