"""Sums of evaluation metrics over the target tokens of each row."""

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import chunks
from kd.losses import cross_entropy
from kd.losses import distributions
from kd.losses import divergences

Array = types.Array

_KL = divergences.forward_kl().integrand

# Number of confidence bins of equal width (arXiv 1706.04599).
BINS = 15
# Number of the model's most likely tokens in 'top5_agreement'.
TOP_K = 5


def by_row(
  hidden: Array,
  unembedding: Array,
  targets: distributions.Targets | None,
  batch: types.Batch,
  chunk_tokens: int,
  detailed: bool = False,
  with_tokens: bool = False,
) -> dict[str, Array]:
  """Computes sums of target likelihoods and distances from the teachers.

  Args:
    hidden: [B, L, D], the model's final hidden states.
    unembedding: [V, D].
    targets: teacher distributions over the model's ids, or None.
    batch: the rows.
    chunk_tokens: tokens per device whose logits are computed at a time.
    detailed: whether to also compute the sums for benchmarks, which need more
      passes over the logits.
    with_tokens: whether to also return the KL of each target token; it needs a
      teacher.

  Returns:
    Weighted sums over the targets of each row, float32 [B]: 'weight', of 1;
    'nll' in nats; 'accuracy', 1 where the target is the model's most likely
    token; and with a teacher 'kl', from teacher to model, in nats at
    temperature 1, and 'agreement', 1 where both have the same most likely
    token. A sum is NaN if a model's logits at one of its targets are not
    finite. 'nonfinite', float32 [B, 1 + n], counts such targets of the model
    and of each of n teachers.
    If `detailed`, also 'calibration' [B, BINS, 3], and with a teacher
    'top5_agreement', 1 where the teacher's most likely token is among the
    model's top five, and 'acceptance', the probability that speculative
    sampling accepts a token that the model drafts for the teacher: 1 - TV
    (arXiv 2211.17192). For each bin of the probability of the model's most
    likely token, 'calibration' contains the sums of 1, of that probability, and
    of 1 where the token is the target.
    If `with_tokens`, also 'token_kl', float32 [B, L]: the KL at each target,
    without its weight; NaN elsewhere and where logits are not finite.
  """
  layout = chunks.Layout(batch.weights, chunk_tokens)
  distribution = None if targets is None else targets.distribution
  arrays = (
    hidden,
    distribution and distribution.per_position(),
    batch.targets,
    batch.weights,
  )

  def add(sums, chunk, index):
    hidden_c, arrays_c, labels, weights = chunk
    student = chunks.project(hidden_c, unembedding)
    nll = cross_entropy.negative_log_likelihood(student, labels)
    hits = (jnp.argmax(student, axis=-1) == labels).astype(jnp.float32)
    # Logits that are not finite count neither as a hit nor as a miss.
    bad = ~jnp.isfinite(nll)
    values = {'nll': nll, 'accuracy': jnp.where(bad, jnp.nan, hits)}
    nonfinite = [bad]
    if detailed:
      values['calibration'] = _by_bin(student, hits)
    if distribution is not None:
      teacher = distribution.with_positions(arrays_c)
      tokens = teacher.project(student.shape[-1])
      pair = tokens.pair(student, jnp.ones(()))
      kl = jnp.sum(_KL(pair.log_p, pair.log_q), axis=-1)
      best = [jnp.argmax(x, axis=-1) for x in (pair.log_p, pair.log_q)]
      same = (best[0] == best[1]).astype(jnp.float32)
      values['kl'] = pair.normalizers.keep_nonfinite(kl)
      if with_tokens:
        by_token = layout.put(sums['token_kl'], values['kl'], index)
      values['agreement'] = pair.normalizers.keep_nonfinite(same)
      if detailed:
        values |= _nearness(pair, best[0])
      nonfinite += [~finite for finite in pair.normalizers.finite_teachers]
    values = {
      k: v * jnp.reshape(weights, (-1,) + (1,) * (v.ndim - 1))
      for k, v in values.items()
    } | {'weight': weights}
    counted = (weights != 0)[:, None]
    values['nonfinite'] = jnp.stack(nonfinite, axis=-1) & counted
    added = {k: sums[k] + layout.sum_rows(v) for k, v in values.items()}
    return added | ({'token_kl': by_token} if with_tokens else {})

  keys = ['weight', 'nll', 'accuracy']
  if targets is not None:
    keys += ['kl', 'agreement']
    keys += ['top5_agreement', 'acceptance'] if detailed else []
  rows = batch.weights.shape[0]
  zeros = {key: jnp.zeros(rows) for key in keys}
  if detailed:
    zeros['calibration'] = jnp.zeros((rows, BINS, 3))
  if with_tokens:
    zeros['token_kl'] = jnp.full(batch.weights.shape, jnp.nan)
  models = 1 + distributions.count_teachers(distribution)
  zeros['nonfinite'] = jnp.zeros((rows, models))
  return chunks.fold(add, zeros, layout, arrays)


def _by_bin(logits, hits):
  """Returns 1, confidence and hit of each token in its bin: [T, BINS, 3]."""
  largest = jnp.max(logits, axis=-1)
  confidence = jnp.exp(largest - jax.nn.logsumexp(logits, axis=-1))
  place = jnp.minimum((confidence * BINS).astype(jnp.int32), BINS - 1)
  columns = jnp.stack([jnp.ones_like(hits), confidence, hits], axis=-1)
  return jax.nn.one_hot(place, BINS)[:, :, None] * columns[:, None, :]


def _nearness(pair, likeliest):
  """Returns top-5 agreement and acceptance of a model at each token.

  Args:
    pair: log-probabilities of the teacher and the model.
    likeliest: int32 [T], the teacher's most likely tokens.
  """
  own = jnp.take_along_axis(pair.log_q, likeliest[:, None], axis=-1)
  before = jnp.sum(pair.log_q > own, axis=-1)
  near = (before < TOP_K).astype(jnp.float32)
  kept = jnp.sum(jnp.exp(jnp.minimum(pair.log_p, pair.log_q)), axis=-1)
  keep = pair.normalizers.keep_nonfinite
  return {'top5_agreement': keep(near), 'acceptance': keep(kept)}
