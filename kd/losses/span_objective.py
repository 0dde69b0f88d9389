"""The part of the objective that uses likelihoods of aligned spans."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import distributions
from kd.losses import label_likelihood
from kd.losses import spans
from kd.losses import step_scalars
from kd.losses import terms as terms_lib

Array = types.Array


def scalars(batch: types.Batch) -> dict[str, Array]:
  """Returns the fraction of target weight that the teacher does not cover.

  This is the weight outside of spans or, if terms compare positions, at
  positions that the teacher does not have.

  Args:
    batch: all rows of a step.

  Returns:
    float32 [] by name; {} if teacher and student have the same tokens.
  """
  if batch.teacher is None:
    return {}
  own = batch.teacher
  outside = own.student_spans == 0 if own.indices is None else own.indices < 0
  outside = jnp.where(outside, batch.weights, 0.0)
  whole = jnp.sum(batch.weights)
  return {'teacher/left_out': jnp.sum(outside) / jnp.maximum(whole, 1e-9)}


def total(
  terms: Sequence[terms_lib.Term],
  hidden: Array,
  unembedding: Array,
  targets: distributions.Targets | None,
  batch: types.Batch,
  settings: step_scalars.StepScalars,
  chunk_tokens: int,
) -> tuple[Array, dict[str, Array], Array]:
  """Computes the terms that use likelihoods of spans.

  Differentiable once, in `hidden` and `unembedding`.

  Args:
    terms: terms whose loss is a SpanLoss.
    hidden: [B, L, D], the student's final hidden states.
    unembedding: float32 [V, D].
    targets: the teacher's targets; their distribution is SpanLikelihoods.
    batch: the rows, with the teacher's tokens.
    settings: scalars of this step.
    chunk_tokens: tokens per device whose logits are computed at a time.

  Returns:
    The sum over terms of weight x sum / total, float32 []; the sum of each
    term, which carries no gradient; and the number of spans whose likelihood
    under the teacher is not finite, float32 [].
  """
  own = batch.teacher.student_spans
  log_q = label_likelihood.log_probabilities(
    chunk_tokens, hidden, unembedding, batch.targets, own > 0
  )
  log_q = spans.at_tokens(spans.sums(log_q, own, own.shape[1]), own)
  log_p = jax.lax.stop_gradient(targets.distribution.log_p)
  scales = step_scalars.scales(settings)
  value, sums = jnp.zeros(()), {}
  for term in terms:
    weights = step_scalars.weights_of(term.loss, batch)
    counted = weights != 0
    # Gradients must not be NaN at positions that do not count either.
    pair = (jnp.where(counted, x, -1.0) for x in (log_p, log_q))
    losses = term.loss.per_span(*pair, settings.values[term.key])
    sums[term.key] = jnp.sum(losses * weights)
    value += scales[term.key] * sums[term.key]
  bad = ~jnp.isfinite(log_p) & spans.last(own) & (batch.weights != 0)
  return value, jax.lax.stop_gradient(sums), jnp.sum(bad).astype(jnp.float32)
