"""Chunk likelihood (ALM, arXiv 2503.20083): for teachers of other tokenizers.

Student and teacher are compared by the likelihood that they give to each
aligned span of the text, the paper's chunks, whose log is the sum of its
tokens' log-probabilities. As the likelihoods of other texts are not known, each
is compared as a choice of two: this chunk, or any other.
"""

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import types
from kd.losses import divergences
from kd.losses import terms

Array = types.Array

# Those of kd/losses/divergences.py that are of two outcomes as of many.
DIVERGENCES = ('forward_kl', 'reverse_kl', 'total_variation')

# Nats, subtracted from both log-likelihoods: float32 cannot tell a likelihood
# nearer to 1 from 1, where the gradient has a pole.
_MARGIN = 1e-5


def _choice(log_likelihood: Array, temperature: Array) -> Array:
  """Returns the log-probabilities of a chunk and of any other: [..., 2].

  Args:
    log_likelihood: float32 [...], at most 0.
    temperature: float32 [].
  """
  log_p = (jnp.minimum(log_likelihood, 0.0) - _MARGIN) / temperature
  # log(1 - p) by the form that is exact for this p.
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
  """Builds T x a divergence of the choices, of likelihoods to the power 1 / T.

  The factor keeps the size of the loss and its gradient where T is large.
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
