"""Selective distillation: the objective at some positions only.

Where a position is not kept, neither model's logits are made for the objective
(arXiv 2602.01395). A rule that ranks by a model's entropy makes that model's
logits once, without a gradient.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import schedules
from kd.core import types
from kd.losses import chunks
from kd.losses import distributions

Array = types.Array

RULES = ('all', 'random', 'student_entropy', 'teacher_entropy')


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
  """Which target positions an objective is computed at.

  Attributes:
    rule: a name of RULES.
    share: by step, the share of a row's target positions that is kept, (0, 1].
  """

  rule: str
  share: schedules.Schedule

  @property
  def needs_teacher(self) -> bool:
    return self.rule == 'teacher_entropy'


def build(spec: Mapping[str, Any], path: str, steps: int) -> Selection:
  """From the config's `objective.positions`.

  Raises:
    ConfigError: an unknown field or rule, or a share that leaves (0, 1].
  """
  for key in spec:
    if key not in ('rule', 'share'):
      raise errors.unknown(f'{path}.{key}', 'field', key, ('rule', 'share'))
  if spec['rule'] not in RULES:
    raise errors.unknown(f'{path}.rule', 'rule', spec['rule'], RULES)
  share = schedules.build(spec['share'], f'{path}.share', steps)
  lowest, highest = schedules.extremes(share, steps)
  if not 0 < lowest <= highest <= 1:
    bad = lowest if not lowest > 0 else highest
    raise errors.ConfigError(
      f'{path}.share', f'found {bad:g}', legal='above 0, up to 1'
    )
  if spec['rule'] == 'all' and lowest < 1:
    raise errors.ConfigError(
      f'{path}.share',
      f'found {lowest:g} with rule all',
      legal='1.0, or another rule',
    )
  return Selection(spec['rule'], share)


def everywhere() -> Selection:
  """Keeps every position."""
  return build({'rule': 'all', 'share': 1.0}, '', 1)


def entropy(logits: Array) -> Array:
  """-sum p log p in nats [...], of float32 logits [..., V]."""
  log_p = jax.nn.log_softmax(logits)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def _entropies(project, arrays, weights, chunk_tokens):
  """float32 [B, L]: entropy where the weight is not 0."""
  layout = chunks.Layout(weights, chunk_tokens)

  def put(out, chunk, index):
    return layout.put(out, entropy(project(chunk)), index)

  return chunks.fold(put, jnp.zeros(weights.shape), layout, arrays)


def _teacher_entropies(targets, weights, chunk_tokens):
  distribution = targets.distribution
  if isinstance(distribution, types.TopK):
    return entropy(distributions.bucket_logprobs(distribution))
  if isinstance(distribution, types.Sampled):
    # The mean of -log p under p, estimated from what was drawn.
    used = distribution.weights > 0
    losses = jnp.where(used, -distribution.logprobs, 0.0)
    return jnp.sum(distribution.weights * losses, axis=-1)

  def project(arrays):
    whole = chunks.with_positions(distribution, arrays)
    views = chunks.teacher_view(whole, distribution[0].unembedding.shape[0])
    size = min(logits.shape[-1] for logits, _ in views)
    sums = distributions.teacher_log_sums(views, size, 1.0)
    return distributions.mixture(views, sums, size, 1.0)

  arrays = chunks.by_position(distribution)
  return _entropies(project, arrays, weights, chunk_tokens)


def _uniform(batch, key):
  """float32 [B, L] that depend on the row's id alone, not on its batch."""
  row = lambda i: jax.random.uniform(
    jax.random.fold_in(key, i), batch.weights.shape[1:]
  )
  return jax.vmap(row)(batch.row_id)


def keep_highest(scores: Array, weights: Array, share: Array) -> Array:
  """Keeps the highest scores of each row and drops the other weights.

  Args:
    scores: float32 [B, L].
    weights: float32 [B, L], 0 where a position does not count.
    share: float32 [], of a row's counting positions, rounded up.

  Returns:
    float32 [B, L]: 0 where dropped; what is kept is scaled up so that each row
    weighs what it did.
  """
  counted = weights != 0
  ranked = jnp.argsort(jnp.where(counted, -scores, jnp.inf), stable=True)
  rank = jnp.argsort(ranked)
  amount = jnp.ceil(share * jnp.sum(counted, axis=1, keepdims=True))
  kept = jnp.where(rank < amount, weights, 0.0)
  total = jnp.sum(kept, axis=1, keepdims=True)
  whole = jnp.sum(weights, axis=1, keepdims=True)
  return kept * jnp.where(total > 0, whole / total, 0.0)


def select(
  selection: Selection,
  share: Array,
  hidden: Array,
  unembedding: Array,
  targets: types.Targets | None,
  batch: types.Batch,
  key: Array,
  chunk_tokens: int,
) -> types.Batch:
  """The batch with weights only where the rule keeps a position.

  The share is kept of each part of each row, so that it depends on no other row
  and the total weight of a part stays what it was.

  Args:
    selection: the rule.
    share: float32 [], of this step.
    hidden: [B, L, D], the student's final hidden states.
    unembedding: [V, D].
    targets: the teacher's, or None if the rule does not need them.
    batch: rows.
    key: of this step, for the random rule.
    chunk_tokens: tokens a device whose logits exist at one time.
  """
  if selection.rule == 'all':
    return batch
  if selection.rule == 'random':
    scores = _uniform(batch, key)
  elif selection.rule == 'student_entropy':
    scores = _entropies(
      lambda h: chunks.project(h, unembedding),
      jax.lax.stop_gradient(hidden),
      batch.weights,
      chunk_tokens,
    )
  else:
    scores = _teacher_entropies(targets, batch.weights, chunk_tokens)
  weights = sum(
    keep_highest(
      scores, jnp.where(batch.parts == part, batch.weights, 0), share
    )
    for part in (types.ANSWER, types.RATIONALE, types.SAMPLED)
  )
  return batch.replace(weights=weights)
