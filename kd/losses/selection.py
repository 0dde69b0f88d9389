"""Selective distillation: computes logits terms at some positions only.

At other positions, no logits are computed for the objective (arXiv 2602.01395).
A rule that ranks by a model's entropy computes that model's logits once,
without a gradient.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import probability
from kd.core import schedules
from kd.core import types
from kd.losses import chunks
from kd.losses import distributions
from kd.losses import modalities

Array = types.Array

RULES = ('all', 'random', 'student_entropy', 'teacher_entropy')


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
  """The rule that picks the positions where logits terms are computed.

  Attributes:
    rule: a name in RULES.
    fraction: schedule of the fraction of a row's target positions to keep, in
      (0, 1].
  """

  rule: str
  fraction: schedules.Schedule

  @property
  def needs_teacher(self) -> bool:
    return self.rule == 'teacher_entropy'


def build(spec: Mapping[str, Any], path: str, steps: int) -> Selection:
  """Builds the selection from the config's `objective.positions`.

  Raises:
    ConfigError: a field or rule is unknown, or the fraction leaves (0, 1].
  """
  for key in spec:
    if key not in ('rule', 'fraction'):
      raise errors.unknown(f'{path}.{key}', 'field', key, ('rule', 'fraction'))
  if spec['rule'] not in RULES:
    raise errors.unknown(f'{path}.rule', 'rule', spec['rule'], RULES)
  fraction = schedules.build(spec['fraction'], f'{path}.fraction', steps)
  lowest, highest = schedules.extremes(fraction, steps)
  if not 0 < lowest <= highest <= 1:
    bad = lowest if not lowest > 0 else highest
    raise errors.ConfigError(
      f'{path}.fraction', f'found {bad:g}', legal='above 0, up to 1'
    )
  if spec['rule'] == 'all' and lowest < 1:
    raise errors.ConfigError(
      f'{path}.fraction',
      f'found {lowest:g} with rule all',
      legal='1.0, or another rule',
    )
  return Selection(spec['rule'], fraction)


def everywhere() -> Selection:
  """Returns the selection that keeps every position."""
  return build({'rule': 'all', 'fraction': 1.0}, '', 1)


def _student_entropies(hidden, unembedding, weights, chunk_tokens):
  """Computes the student's entropy where the weight is not 0: [B, L]."""
  layout = chunks.Layout(weights, chunk_tokens)

  def put(out, chunk, index):
    log_p = jax.nn.log_softmax(chunks.project(chunk, unembedding))
    return layout.put(out, probability.entropy(log_p), index)

  return chunks.fold(put, jnp.zeros(weights.shape), layout, hidden)


def _teacher_entropies(distribution, weights, chunk_tokens):
  """Computes the teachers' entropy where the weight is not 0.

  Returns:
    float32 [B, L], and whether each teacher is finite, bool [B, L, n].
  """
  layout = chunks.Layout(weights, chunk_tokens)

  def put(out, chunk, index):
    tokens = distribution.with_positions(chunk).project(None)
    return jax.tree.map(
      lambda whole, new: layout.put(whole, new, index), out, tokens.entropy()
    )

  finite = jnp.ones((*weights.shape, distribution.num_teachers), bool)
  arrays = distribution.per_position()
  return chunks.fold(put, (jnp.zeros(weights.shape), finite), layout, arrays)


def _uniform(batch, key):
  """Returns random scores [B, L] that depend on the row's id, not its batch."""
  row = lambda i: jax.random.uniform(
    jax.random.fold_in(key, i), batch.weights.shape[1:]
  )
  return jax.vmap(row)(batch.row_id)


def keep_highest(scores: Array, weights: Array, fraction: Array) -> Array:
  """Sets the weights of all but the highest scores of each row to 0.

  If a counted score is not finite, all weights of the row become NaN, since a
  loss over some of its positions would hide the error.

  Args:
    scores: float32 [B, L].
    weights: float32 [B, L], 0 where a position does not count.
    fraction: float32 [], fraction of a row's counted positions to keep; their
      number is rounded up.

  Returns:
    float32 [B, L]; the weights that are kept are scaled so that the sum of each
    row stays the same.
  """
  counted = weights != 0
  ranked = jnp.argsort(jnp.where(counted, -scores, jnp.inf), stable=True)
  rank = jnp.argsort(ranked)
  amount = jnp.ceil(fraction * jnp.sum(counted, axis=1, keepdims=True))
  kept = jnp.where(rank < amount, weights, 0.0)
  total = jnp.sum(kept, axis=1, keepdims=True)
  whole = jnp.sum(weights, axis=1, keepdims=True)
  kept *= jnp.where(total > 0, whole / total, 0.0)
  is_lost = jnp.any(counted & ~jnp.isfinite(scores), axis=1, keepdims=True)
  return jnp.where(is_lost & counted, jnp.nan, kept)


def _groups(batch):
  """Yields masks [B, L] of the groups that the fraction applies to."""
  images = modalities.with_images(batch)
  for part in (types.ANSWER, types.RATIONALE, types.SAMPLED):
    among = batch.parts == part
    yield from [among] if images is None else [among & images, among & ~images]


def select(
  selection: Selection,
  fraction: Array,
  hidden: Array,
  unembedding: Array,
  targets: distributions.Targets | None,
  batch: types.Batch,
  key: Array,
  chunk_tokens: int,
) -> tuple[types.Batch, Array]:
  """Returns the batch with weights only where the rule keeps a position.

  The fraction applies separately to each part and modality of each row, so that
  rows are independent and the total weight of a part and of a modality stays
  the same.

  Args:
    selection: the rule.
    fraction: float32 [], the fraction at this step.
    hidden: [B, L, D], the student's final hidden states.
    unembedding: [V, D].
    targets: the teachers' targets, or None if the rule does not need them.
    batch: the rows.
    key: random key of this step, for the random rule.
    chunk_tokens: tokens per device whose logits are computed at a time.

  Returns:
    The batch; and for each teacher that the rule uses, the number of targets
    at which its distribution is not finite, float32 [n]; [0.] if it uses none.
  """
  finite = jnp.ones((*batch.weights.shape, 1), bool)
  if selection.rule == 'all':
    return batch, jnp.zeros(1)
  if selection.rule == 'random':
    scores = _uniform(batch, key)
  elif selection.rule == 'student_entropy':
    scores = _student_entropies(
      jax.lax.stop_gradient(hidden), unembedding, batch.weights, chunk_tokens
    )
  else:
    scores, finite = _teacher_entropies(
      targets.distribution, batch.weights, chunk_tokens
    )
  bad = ~finite & (batch.weights != 0)[..., None]
  weights = sum(
    keep_highest(scores, jnp.where(among, batch.weights, 0), fraction)
    for among in _groups(batch)
  )
  nonfinite = jnp.sum(bad, axis=(0, 1)).astype(jnp.float32)
  return batch.replace(weights=weights), nonfinite
