"""Cross-entropy with the true next token."""

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import types
from kd.losses import terms


@jax.custom_vjp
def negative_log_likelihood(
  logits: types.Array, labels: types.Array
) -> types.Array:
  """Computes -log softmax(logits)[label] in nats; differentiable once.

  Args:
    logits: float32 [..., V].
    labels: int32 [...].

  Returns:
    float32 [...].
  """
  return _nll_forward(logits, labels)[0]


def _nll_forward(logits, labels):
  log_z = jax.nn.logsumexp(logits, axis=-1)
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return log_z - picked, (logits, labels, log_z)


def _nll_backward(residuals, cotangent):
  """Computes softmax - one-hot in one pass over V; autodiff takes four."""
  logits, labels, log_z = residuals
  ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  q = jnp.exp(logits - log_z[..., None])
  gradient = q - (ids == labels[..., None]).astype(q.dtype)
  return gradient * cotangent[..., None], None


negative_log_likelihood.defvjp(_nll_forward, _nll_backward)


@terms.TERMS.register('cross_entropy')
def cross_entropy(
  context: terms.Context,
  *,
  label_smoothing: float,
  z_loss: float,
  part: str,
) -> terms.LogitsLoss:
  """Builds cross-entropy with label smoothing and z-loss.

  The target distribution has 1 - s at the label and s spread evenly over all V
  ids (arXiv 1512.00567, section 7). The term z x log(Z)^2 keeps the normalizer
  Z near 1 (arXiv 2204.02311, section 5).
  """
  del context
  terms.check_part(part)
  if part == 'sampled':
    raise errors.ConfigError(
      'part',
      "found 'sampled': sampled tokens cannot be used as labels",
      legal='all, answer, rationale',
    )
  if not 0 <= label_smoothing < 1:
    raise errors.ConfigError(
      'label_smoothing', f'found {label_smoothing}', legal='[0, 1)'
    )
  if not z_loss >= 0:
    raise errors.ConfigError('z_loss', f'found {z_loss}', legal='0 or more')

  def per_token(
    inputs: terms.TokenInputs, values: terms.Values
  ) -> tuple[types.Array, tuple[types.Array, ...]]:
    del values
    student = inputs.student
    loss = negative_log_likelihood(student, inputs.labels)
    if label_smoothing or z_loss:
      log_z = jax.nn.logsumexp(student, axis=-1)
      uniform = log_z - jnp.mean(student, axis=-1)
      loss = (1 - label_smoothing) * loss + label_smoothing * uniform
      loss += z_loss * log_z**2
    return loss, ()

  return terms.LogitsLoss(
    per_token, part=part, needs_teacher=False, reads_labels=True, values={}
  )
