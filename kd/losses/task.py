"""Losses against the true next token."""

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import terms


def negative_log_likelihood(
  logits: types.Array, labels: types.Array
) -> types.Array:
  """-log softmax(logits)[label], in nats.

  Args:
    logits: float32 [..., V].
    labels: int32 [...].

  Returns:
    float32 [...].
  """
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - picked


@terms.LOSSES.register('cross_entropy')
def cross_entropy():
  """Builds the cross-entropy term."""

  def per_token(logits):
    return negative_log_likelihood(logits.student, logits.labels)

  return per_token, False
