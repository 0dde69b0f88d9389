"""Sums of evaluation metrics over the target tokens of each row."""

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
  """Computes the likelihood of targets and the distance from the teachers.

  Args:
    hidden: [B, L, D], the model's final hidden states.
    unembedding: [V, D].
    targets: distributions over the same ids as the model's, or None.
    batch: the rows.
    chunk_tokens: tokens per device whose logits are held at a time.

  Returns:
    Weighted sums over the targets of each row, float32 [B]: 'weight', of 1;
    'nll' in nats; 'accuracy', 1 where the target is the model's most
    likely token; and with a teacher 'kl', from it to the model, in nats at
    temperature 1, and 'agreement', 1 where both have the same most likely
    token. A sum is NaN if a model's logits at one of its targets are not
    finite. 'nonfinite', float32 [B, 1 + n], counts such targets of the model
    and of each of n teachers.
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
    # Logits that are not finite count neither as a hit nor as a miss.
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
