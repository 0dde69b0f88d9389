"""The part of the objective that uses logits.

Its terms share one pass over chunks of tokens. The same pass computes the
gradient, so that no array of size tokens x V is stored for a backward pass.
"""

from collections.abc import Sequence
import functools

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import chunks
from kd.losses import distributions
from kd.losses import importance as importance_lib
from kd.losses import modalities as modalities_lib
from kd.losses import step_scalars
from kd.losses import teacher_sums
from kd.losses import terms as terms_lib
from kd.partitioning import rules

Array = types.Array

# The fields of _Inputs with a value for each target.
_PER_TARGET = (
  *('labels', 'parts', 'weights', 'images'),
  *('sampling_logprobs', 'with_teacher', 'teacher_weights'),
)


@struct.dataclass
class Sums:
  """Sums over a batch's target tokens.

  Attributes:
    losses: by term, the sum of target weight x loss, in nats.
    nonfinite: float32 [n], the number of NaN or infinite values at counted
      targets, for each of n teachers.
    by_modality: by term, its sum over the targets of each modality, float32
      [2]; {} without images.
    importance: see importance.sums; None without importance weights.
    by_teacher: by term that uses the teachers, its weighted sum over the
      targets of each teacher, float32 [n]; {} if each has all targets.
  """

  losses: dict[str, Array]
  nonfinite: Array
  by_modality: dict[str, Array] = struct.field(default_factory=dict)
  importance: Array | None = None
  by_teacher: dict[str, Array] = struct.field(default_factory=dict)

  def __add__(self, other: 'Sums') -> 'Sums':
    return jax.tree.map(jnp.add, self, other)


@struct.dataclass
class _Inputs:
  """Non-differentiated arguments of _logits_objective."""

  distribution: distributions.Distribution | None
  labels: Array
  parts: Array
  weights: Array
  images: Array | None
  sampling_logprobs: Array | None
  with_teacher: Array | None
  teacher_weights: Array | None
  scales: dict[str, Array]
  values: dict[str, dict[str, Array]]
  importance: importance_lib.Importance | None = struct.field(
    pytree_node=False, default=None
  )


def zero_sums(
  terms: Sequence[terms_lib.Term],
  distribution: distributions.Distribution | None,
  by_modality: bool,
  weighted: bool,
  teacher_weights: Array | None,
) -> Sums:
  """Returns all-zero sums.

  Args:
    terms: terms of the objective.
    distribution: the teachers' distribution, or None.
    by_modality: whether the batch has images.
    weighted: whether the batch's targets have importance weights.
    teacher_weights: see types.Batch.
  """
  count = distributions.count_teachers(distribution)
  zero = lambda *shape: jnp.zeros(shape, jnp.float32)
  zeros = lambda *shape: {t.key: zero(*shape) for t in terms}
  by_teacher = {}
  if teacher_weights is not None:
    teachers = teacher_weights.shape[-1]
    by_teacher = {t.key: zero(teachers) for t in teacher_terms(terms)}
  return Sums(
    zeros(),
    zero(count),
    zeros(len(modalities_lib.NAMES)) if by_modality else {},
    jnp.zeros(3) if weighted else None,
    by_teacher,
  )


def teacher_terms(terms: Sequence[terms_lib.Term]) -> list[terms_lib.Term]:
  """Returns the terms whose loss uses the teachers' distributions."""
  return [
    t
    for t in terms
    if isinstance(t.loss, terms_lib.LogitsLoss) and t.loss.needs_teacher
  ]


def _chunk_sums(terms, student, chunk):
  """Returns the scaled total of a chunk, and its Sums."""
  distribution = chunk.distribution
  teacher = distribution and distribution.project(student.shape[-1])
  inputs = terms_lib.TokenInputs(student, teacher, chunk.labels)
  target_weights, weighted = _weighted(student, chunk)
  sums, by_modality, by_teacher = {}, {}, {}
  nonfinite = jnp.zeros(distributions.count_teachers(distribution))
  for term in terms:
    losses, finite = term.loss.per_token(inputs, chunk.values[term.key])
    weights = step_scalars.counted_weights(
      term.loss, target_weights, chunk.parts, chunk.with_teacher
    )
    sums[term.key] = jnp.sum(losses * weights)
    if chunk.images is not None:
      by_modality[term.key] = modalities_lib.sums(
        losses * weights, chunk.images
      )
    if chunk.teacher_weights is not None and term.loss.needs_teacher:
      by_teacher[term.key] = teacher_sums.of(
        losses * weights, chunk.teacher_weights
      )
    if finite:
      # Also where the term's own weight is 0, since its loss is NaN there too.
      bad = [jnp.sum(~one & (chunk.weights != 0)) for one in finite]
      nonfinite += jnp.stack(bad).astype(jnp.float32)
  total = scaled(sums, chunk.scales)
  return total, Sums(sums, nonfinite, by_modality, weighted, by_teacher)


def _weighted(student, chunk):
  """Returns a chunk's target weights x importance weights, and their sums."""
  if chunk.sampling_logprobs is None:
    return chunk.weights, None
  sampled = chunk.parts == types.SAMPLED
  weight, truncated = importance_lib.weights(
    *(chunk.importance, student, chunk.labels),
    *(sampled, chunk.sampling_logprobs),
  )
  counted = sampled & (chunk.weights != 0)
  return (
    chunk.weights * weight,
    importance_lib.sums(weight, truncated, counted),
  )


def scaled(sums: dict[str, Array], scales: dict[str, Array]) -> Array:
  """Returns the objective: the scaled sum of the terms' sums."""
  return sum(scales[key] * value for key, value in sums.items())


def _arrays(hidden, inputs):
  """Returns the arrays that are cut into chunks."""
  distribution = inputs.distribution
  arrays = distribution and distribution.per_position()
  return hidden, arrays, {name: getattr(inputs, name) for name in _PER_TARGET}


def _chunk_inputs(inputs, chunk):
  """Returns the inputs at a chunk's positions."""
  _, arrays, per_target = chunk
  distribution = inputs.distribution
  return inputs.replace(
    distribution=distribution and distribution.with_positions(arrays),
    **per_target,
  )


def _zeros(terms, inputs):
  return zero_sums(
    terms,
    inputs.distribution,
    inputs.images is not None,
    inputs.sampling_logprobs is not None,
    inputs.teacher_weights,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logits_objective(terms, chunk_tokens, hidden, unembedding, inputs):
  layout = chunks.Layout(inputs.weights, chunk_tokens)

  def add(sums, chunk, index):
    del index
    student = chunks.project(chunk[0], unembedding)
    _, new = _chunk_sums(terms, student, _chunk_inputs(inputs, chunk))
    return sums + new

  zeros = _zeros(terms, inputs)
  sums = chunks.fold(add, zeros, layout, _arrays(hidden, inputs))
  return scaled(sums.losses, inputs.scales), sums


def _forward(terms, chunk_tokens, hidden, unembedding, inputs):
  """Computes _logits_objective, with the gradients as residuals.

  The gradient of the unembedding is left out if it is not trained. Otherwise
  the compiler would still compute it.
  """
  trains_unembedding = unembedding.perturbed
  hidden, unembedding, inputs = jax.tree.map(
    lambda argument: argument.value, (hidden, unembedding, inputs)
  )
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
    d_chunk, d_unembedding = chunks.pull_back(
      d_logits, chunks.gather(chunk[0]), unembedding, d_unembedding
    )
    return (
      sums + new,
      d_unembedding,
      layout.put(d_hidden, d_chunk.astype(hidden.dtype), index),
    )

  d_unembedding = None
  if trains_unembedding:
    d_unembedding = rules.constrain(
      jnp.zeros(unembedding.shape), ('vocab', 'table_width')
    )
  carry = _zeros(terms, inputs), d_unembedding, jnp.zeros_like(hidden)
  sums, d_unembedding, d_hidden = chunks.fold(
    add, carry, layout, _arrays(hidden, inputs)
  )
  value = scaled(sums.losses, inputs.scales)
  return (value, sums), (d_hidden, d_unembedding)


def _backward(terms, chunk_tokens, residuals, cotangents):
  del terms, chunk_tokens
  d_hidden, d_unembedding = residuals
  scale = cotangents[0]
  return (
    (d_hidden * scale).astype(d_hidden.dtype),
    None if d_unembedding is None else d_unembedding * scale,
    None,
  )


_logits_objective.defvjp(_forward, _backward, symbolic_zeros=True)


def total(
  terms: Sequence[terms_lib.Term],
  chunk_tokens: int,
  hidden: Array,
  unembedding: Array,
  targets: distributions.Targets | None,
  batch: types.Batch,
  settings: step_scalars.StepScalars,
  importance: importance_lib.Importance | None,
) -> tuple[Array, Sums]:
  """Computes the terms that use logits.

  Differentiable once, in `hidden` and `unembedding`; the sums are for metrics
  and carry no gradient.

  Args:
    terms: terms whose loss is a LogitsLoss.
    chunk_tokens: tokens per device whose logits are computed at a time.
    hidden: [B, L, D], the student's final hidden states.
    unembedding: float32 [V, D].
    targets: the teachers' targets, or None if no term needs them.
    batch: the rows, with nonzero weights at the positions that are kept.
    settings: scalars of this step.
    importance: weighting of sampled tokens, if the batch has sampling_logprobs.

  Returns:
    float32 [], the sum over terms of weight x sum / total; and the sums.
  """
  distribution = targets and targets.distribution
  weighted = batch.sampling_logprobs is not None
  none = zero_sums((), distribution, False, weighted, None)
  if not terms:
    return jnp.zeros(()), none
  needed = any(term.loss.needs_teacher for term in terms)
  inputs = _Inputs(
    distribution=distribution if needed else None,
    labels=batch.targets,
    parts=batch.parts,
    weights=batch.weights,
    images=modalities_lib.with_images(batch),
    sampling_logprobs=batch.sampling_logprobs,
    with_teacher=step_scalars.with_teacher(batch),
    teacher_weights=batch.teacher_weights,
    scales=step_scalars.scales(settings),
    values=settings.values,
    importance=importance,
  )
  value, sums = _logits_objective(
    terms,
    chunk_tokens,
    hidden,
    unembedding,
    jax.lax.stop_gradient(inputs),
  )
  return value, sums if needed else sums.replace(nonfinite=none.nonfinite)
