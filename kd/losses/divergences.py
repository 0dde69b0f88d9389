"""Divergences between the teacher's and the student's next token."""

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import types
from kd.losses import terms


def forward_kl_per_token(
  student: types.Array, teacher: types.Array, temperature: float
) -> types.Array:
  """T^2 KL(p || q), p and q at temperature T (arXiv 1503.02531, section 2).

  The factor keeps the gradient's size when T changes. An id to which the
  teacher gives no probability adds nothing, whatever the student gives it.

  Args:
    student: float32 logits [..., V].
    teacher: float32 logits [..., V].
    temperature: T > 0.

  Returns:
    float32 [...] in nats.
  """
  log_p = jax.nn.log_softmax(teacher / temperature)
  log_q = jax.nn.log_softmax(student / temperature)
  p = jnp.exp(log_p)
  # p = 0 must win over an infinite difference, in the gradient too.
  difference = jnp.where(p > 0, log_p - log_q, 0.0)
  return temperature**2 * jnp.sum(p * difference, axis=-1)


@terms.LOSSES.register('forward_kl')
def forward_kl(*, temperature: float):
  """Builds the forward KL term."""
  if not temperature > 0:
    raise errors.ConfigError(
      'temperature', f'found {temperature}', legal='above 0'
    )

  def per_token(logits):
    return forward_kl_per_token(*logits.shared(), temperature)

  return per_token, True
