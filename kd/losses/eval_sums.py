"""Sums over target tokens by row, for evaluation."""

import jax.numpy as jnp

from kd.core import types
from kd.losses import chunks
from kd.losses import cross_entropy
from kd.losses import distributions
from kd.losses import divergences

Array = types.Array

_KL = divergences.forward_kl().integrand


def by_row(
  hidden: Array,
  unembedding: Array,
  targets: distributions.Targets | None,
  batch: types.Batch,
  chunk_tokens: int,
) -> dict[str, Array]:
  """How well a model predicts targets, and how far it is from a teacher.

  Args:
    hidden: [B, L, D].
    unembedding: [V, D].
    targets: the teacher's, of dense teachers, or None.
    batch: rows.
    chunk_tokens: tokens a device whose logits exist at one time.

  Returns:
    float32 [B] each: 'weight', 'nll' in nats, 'accuracy', the weight of targets
    that are the model's most likely token, and, with a teacher, 'kl' to it in
    nats at temperature 1 and 'agreement', the weight of targets at which both
    models' most likely tokens are the same; a sum over a target at which
    either model's logits are not finite is NaN. And 'nonfinite', float32
    [B, 1 + n], the numbers of such targets of the model and of n teachers.
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
    del index
    hidden_c, arrays_c, labels, weights = chunk
    student = chunks.project(hidden_c, unembedding)
    nll = cross_entropy.negative_log_likelihood(student, labels)
    hits = (jnp.argmax(student, axis=-1) == labels).astype(jnp.float32)
    # Logits that are not finite must count neither as a hit nor as a miss.
    bad = ~jnp.isfinite(nll)
    values = {'nll': nll, 'accuracy': jnp.where(bad, jnp.nan, hits)}
    nonfinite = [bad]
    if distribution is not None:
      teacher = distribution.with_positions(arrays_c)
      tokens = teacher.project(student.shape[-1])
      pair = tokens.pair(student, jnp.ones(()))
      kl = jnp.sum(_KL(pair.log_p, pair.log_q), axis=-1)
      best = [jnp.argmax(x, axis=-1) for x in (pair.log_p, pair.log_q)]
      same = (best[0] == best[1]).astype(jnp.float32)
      values['kl'] = pair.normalizers.keep_nonfinite(kl)
      values['agreement'] = pair.normalizers.keep_nonfinite(same)
      nonfinite += [~finite for finite in pair.normalizers.finite_teachers]
    values = {k: v * weights for k, v in values.items()} | {'weight': weights}
    counted = (weights != 0)[:, None]
    values['nonfinite'] = jnp.stack(nonfinite, axis=-1) & counted
    return {k: sums[k] + layout.sum_rows(v) for k, v in values.items()}

  keys = ['weight', 'nll', 'accuracy']
  if targets is not None:
    keys += ['kl', 'agreement']
  rows = batch.weights.shape[0]
  zeros = {key: jnp.zeros(rows) for key in keys}
  models = 1 + distributions.count_teachers(distribution)
  zeros['nonfinite'] = jnp.zeros((rows, models))
  return chunks.fold(add, zeros, layout, arrays)
