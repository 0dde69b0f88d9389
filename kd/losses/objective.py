"""The objective: weighted terms over a batch's target tokens.

Terms of next-token distributions share one pass over chunks of tokens. The
gradient is made in the same pass: nothing of size tokens x V is kept for a
backward one.
"""

from collections.abc import Sequence
import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import schedules
from kd.core import types
from kd.losses import chunks
from kd.losses import selection as selection_lib
from kd.losses import terms as terms_lib
from kd.partitioning import rules

Array = types.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
  """What a student is trained to make small.

  Attributes:
    terms: what is summed.
    selection: the positions that terms of logits are computed at.
    chunk_tokens: tokens a device whose logits, over the whole vocabulary, exist
      at one time.
  """

  terms: tuple[terms_lib.Term, ...]
  selection: selection_lib.Selection
  chunk_tokens: int

  @property
  def needs_teacher(self) -> bool:
    return self.selection.needs_teacher or any(
      term.loss.needs_teacher for term in self.terms
    )

  @property
  def logits_terms(self) -> tuple[terms_lib.Term, ...]:
    return self._of(terms_lib.LogitsLoss)

  @property
  def taps_terms(self) -> tuple[terms_lib.Term, ...]:
    return self._of(terms_lib.TapsLoss)

  def _of(self, kind):
    return tuple(t for t in self.terms if isinstance(t.loss, kind))


@struct.dataclass
class Settings:
  """What a step's objective is computed with, by a term's key.

  Attributes:
    weights: float32 [], the term's weight at this step.
    totals: float32 [], the weight of the targets that count for it, over the
      whole batch: all micro-batches and devices.
    values: the term's scalar arguments at this step.
    share: float32 [], of the positions that are kept.
  """

  weights: dict[str, Array]
  totals: dict[str, Array]
  values: dict[str, dict[str, Array]]
  share: Array


@struct.dataclass
class Sums:
  """Sums over a batch's target tokens.

  Attributes:
    losses: by term, of target weight x loss, in nats.
    nonfinite: float32 [n], for each of n teachers the number of values that
      were NaN or infinite where a target counts; zeros of finite teachers.
  """

  losses: dict[str, Array]
  nonfinite: Array

  def __add__(self, other: 'Sums') -> 'Sums':
    return jax.tree.map(jnp.add, self, other)


@struct.dataclass
class _Inputs:
  """What the logits' objective is not differentiated by."""

  distribution: types.PyTree
  labels: Array
  parts: Array
  weights: Array
  scales: dict[str, Array]
  values: dict[str, dict[str, Array]]


def counted_weights(
  loss: terms_lib.LogitsLoss | terms_lib.TapsLoss, weights: Array, parts: Array
) -> Array:
  """The target weights that count for a term, zeros elsewhere."""
  wanted = terms_lib.PARTS[loss.part]
  if wanted is not None:
    return jnp.where(parts == wanted, weights, 0.0)
  if loss.reads_labels:
    return jnp.where(parts == types.SAMPLED, 0.0, weights)
  return weights


def settings(objective: Objective, batch: types.Batch, step: Array) -> Settings:
  """Evaluates schedules, and sums target weights, for a whole batch."""
  terms = objective.terms
  number = lambda schedule: jnp.asarray(schedule(step), jnp.float32)
  return Settings(
    share=number(objective.selection.share),
    weights={term.key: number(term.weight) for term in terms},
    totals={
      term.key: jnp.sum(counted_weights(term.loss, batch.weights, batch.parts))
      for term in terms
    },
    values={
      term.key: {k: number(v) for k, v in term.loss.values.items()}
      for term in terms
    },
  )


def scales(settings: Settings) -> dict[str, Array]:
  """What each term's sum is multiplied by; 0 where no target counts for it."""
  return {
    key: jnp.where(total > 0, settings.weights[key] / total, 0.0)
    for key, total in settings.totals.items()
  }


def scheduled(objective: Objective, settings: Settings) -> dict[str, Array]:
  """What a term's or the selection's schedules gave, for the metrics.

  Only of what the config made a schedule of: constants are in the config.
  """
  found = {}
  for term in objective.terms:
    if schedules.changes(term.weight):
      found[f'weight/{term.key}'] = settings.weights[term.key]
    for name, schedule in term.loss.values.items():
      if schedules.changes(schedule):
        found[f'{name}/{term.key}'] = settings.values[term.key][name]
  if schedules.changes(objective.selection.share):
    found['share'] = settings.share
  return found


def teacher_count(distribution: types.PyTree) -> int:
  """Returns how many teachers a distribution comes from; 0 for None."""
  if distribution is None:
    return 0
  return len(distribution) if isinstance(distribution, tuple) else 1


def no_sums(
  terms: Sequence[terms_lib.Term], distribution: types.PyTree
) -> Sums:
  """Returns the sums over no tokens."""
  zero = jnp.zeros((), jnp.float32)
  count = teacher_count(distribution)
  return Sums({term.key: zero for term in terms}, jnp.zeros(count, jnp.float32))


def _chunk_sums(terms, student, chunk):
  """Returns the scaled total of a chunk, and its Sums."""
  logits = chunks.view(student, chunk.distribution, chunk.labels)
  sums, nonfinite = {}, jnp.zeros(teacher_count(chunk.distribution))
  for term in terms:
    losses, finite = term.loss.per_token(logits, chunk.values[term.key])
    weights = counted_weights(term.loss, chunk.weights, chunk.parts)
    sums[term.key] = jnp.sum(losses * weights)
    if finite:
      # At any target: a loss that is not finite is so at a weight of 0 too.
      bad = [jnp.sum(~one & (chunk.weights != 0)) for one in finite]
      nonfinite += jnp.stack(bad).astype(jnp.float32)
  return total(sums, chunk.scales), Sums(sums, nonfinite)


def total(sums: dict[str, Array], scales: dict[str, Array]) -> Array:
  """Returns the objective: the scaled sum of the terms' sums."""
  return sum(scales[key] * value for key, value in sums.items())


def _arrays(hidden, inputs):
  """What is cut into chunks."""
  distribution = chunks.by_position(inputs.distribution)
  return hidden, distribution, inputs.labels, inputs.parts, inputs.weights


def _chunk_inputs(inputs, chunk):
  _, distribution, labels, parts, weights = chunk
  return inputs.replace(
    distribution=chunks.with_positions(inputs.distribution, distribution),
    labels=labels,
    parts=parts,
    weights=weights,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logits_objective(terms, chunk_tokens, hidden, unembedding, inputs):
  layout = chunks.Layout(inputs.weights, chunk_tokens)

  def add(sums, chunk, index):
    del index
    student = chunks.project(chunk[0], unembedding)
    _, new = _chunk_sums(terms, student, _chunk_inputs(inputs, chunk))
    return sums + new

  zeros = no_sums(terms, inputs.distribution)
  sums = chunks.fold(add, zeros, layout, _arrays(hidden, inputs))
  return total(sums.losses, inputs.scales), sums


def _forward(terms, chunk_tokens, hidden, unembedding, inputs):
  """The same with the gradients as residuals."""
  layout = chunks.Layout(inputs.weights, chunk_tokens)

  def add(carry, chunk, index):
    sums, d_unembedding, d_hidden = carry
    student = chunks.project(chunk[0], unembedding)
    gradient = jax.grad(
      lambda logits: _chunk_sums(terms, logits, _chunk_inputs(inputs, chunk)),
      has_aux=True,
    )
    d_logits, new = gradient(student)
    d_logits = d_logits.astype(hidden.dtype)
    part, d_unembedding = chunks.pull_back(
      d_logits, chunks.gather(chunk[0]), unembedding, d_unembedding
    )
    return (
      sums + new,
      d_unembedding,
      layout.put(d_hidden, part.astype(hidden.dtype), index),
    )

  d_unembedding = rules.constrain(
    jnp.zeros(unembedding.shape), ('vocab', 'table_width')
  )
  zeros = no_sums(terms, inputs.distribution)
  carry = zeros, d_unembedding, jnp.zeros_like(hidden)
  sums, d_unembedding, d_hidden = chunks.fold(
    add, carry, layout, _arrays(hidden, inputs)
  )
  value = total(sums.losses, inputs.scales)
  return (value, sums), (d_hidden, d_unembedding)


def _backward(terms, chunk_tokens, residuals, cotangents):
  del terms, chunk_tokens
  d_hidden, d_unembedding = residuals
  scale = cotangents[0]
  return (
    (d_hidden * scale).astype(d_hidden.dtype),
    d_unembedding * scale,
    None,
  )


_logits_objective.defvjp(_forward, _backward)


def logits_total(
  objective: Objective,
  hidden: Array,
  unembedding: Array,
  targets: types.Targets | None,
  batch: types.Batch,
  settings: Settings,
) -> tuple[Array, Sums]:
  """The total and each sum of the terms that read logits.

  Differentiable once, in `hidden` and `unembedding`; the sums are for metrics
  and carry no gradient.

  Args:
    objective: whose terms are summed.
    hidden: [B, L, D], the student's final hidden states.
    unembedding: float32 [V, D].
    targets: the teacher's, or None if no term needs them.
    batch: rows with the weights of the positions that are kept.
    settings: of this step.

  Returns:
    float32 [], sum over terms of weight x sum / total; and the sums.
  """
  terms = objective.logits_terms
  distribution = targets and targets.distribution
  none = no_sums((), distribution)
  if not terms:
    return jnp.zeros(()), none
  needed = any(term.loss.needs_teacher for term in terms)
  inputs = _Inputs(
    distribution=distribution if needed else None,
    labels=batch.targets,
    parts=batch.parts,
    weights=batch.weights,
    scales=scales(settings),
    values=settings.values,
  )
  value, sums = _logits_objective(
    terms,
    objective.chunk_tokens,
    hidden,
    unembedding,
    jax.lax.stop_gradient(inputs),
  )
  return value, sums if needed else sums.replace(nonfinite=none.nonfinite)
