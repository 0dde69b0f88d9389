"""Chunk likelihood (ALM, arXiv 2503.20083) for teachers of other tokenizers.

Student and teacher are compared by the likelihoods of aligned spans of the
text, the paper's chunks. The log-likelihood of a chunk is the sum of its
tokens' log-probabilities. Since the likelihoods of other texts are unknown,
each comparison has two outcomes: this chunk or any other.
"""

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import types
from kd.losses import divergences
from kd.losses import terms

Array = types.Array

# The divergences of kd/losses/divergences.py that are used for two outcomes.
DIVERGENCES = ('forward_kl', 'reverse_kl', 'total_variation')

# Subtracted from both log-likelihoods, in nats. The gradient has a pole at a
# likelihood of 1, from which float32 cannot distinguish closer values.
_MARGIN = 1e-5


def _choice(log_likelihood: Array, temperature: Array) -> Array:
  """Returns log-probabilities [..., 2] of a chunk and of any other chunk.

  Args:
    log_likelihood: float32 [...], at most 0.
    temperature: float32 [].
  """
  log_p = (jnp.minimum(log_likelihood, 0.0) - _MARGIN) / temperature
  # log(1 - p), in the form that is accurate for each p.
  is_small = log_p < -1.0
  small = jnp.log1p(-jnp.exp(jnp.where(is_small, log_p, -1.0)))
  large = jnp.log(-jnp.expm1(jnp.where(is_small, -1.0, log_p)))
  return jnp.stack([log_p, jnp.where(is_small, small, large)], axis=-1)


@terms.TERMS.register('chunk_likelihood')
def chunk_likelihood(
  context: terms.Context,
  *,
  divergence: str,
  likelihood_temperature: float,
  part: str,
) -> terms.SpanLoss:
  """Builds T times a divergence of both outcomes, softened by temperature T.

  Likelihoods are raised to the power 1 / T. The factor T preserves the scale of
  the loss and its gradient for large T.
  """
  terms.check_part(part)
  if divergence not in DIVERGENCES:
    raise errors.unknown('divergence', 'divergence', divergence, DIVERGENCES)
  path = 'likelihood_temperature'
  schedule = terms.positive(likelihood_temperature, path, context.steps)
  measure = divergences.DIVERGENCES.build({'name': divergence}, '')

  def per_span(log_p: Array, log_q: Array, values: terms.Values) -> Array:
    t = values[path]
    teacher = jax.lax.stop_gradient(_choice(log_p, t))
    return t * jnp.sum(measure.integrand(teacher, _choice(log_q, t)), axis=-1)

  return terms.SpanLoss(per_span, part=part, values={path: schedule})
