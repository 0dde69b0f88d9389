"""The objective: weighted terms over a batch's target tokens.

Terms that read logits share one pass over chunks of tokens. The same pass
computes the gradient, so that no array of size tokens x V is kept for a
backward pass.
"""

from collections.abc import Sequence
import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import chunks
from kd.losses import distributions
from kd.losses import layer_objective
from kd.losses import modalities as modalities_lib
from kd.losses import selection as selection_lib
from kd.losses import span_objective
from kd.losses import step_scalars
from kd.losses import terms as terms_lib
from kd.partitioning import rules

Array = types.Array


@struct.dataclass
class Sums:
  """Sums over a batch's target tokens.

  Attributes:
    losses: by term, the sum of target weight x loss, in nats.
    nonfinite: float32 [n], for each of n teachers the number of values at
      counted targets that were NaN or infinite.
    by_modality: by term, its sum over the targets of each modality, float32
      [2]; {} without images.
  """

  losses: dict[str, Array]
  nonfinite: Array
  by_modality: dict[str, Array] = struct.field(default_factory=dict)

  def __add__(self, other: 'Sums') -> 'Sums':
    return jax.tree.map(jnp.add, self, other)


@struct.dataclass
class Student:
  """The student's outputs that the objective reads.

  Attributes:
    hidden: [B, L, D], final hidden states.
    unembedding: float32 [V, D].
    taps: the layer outputs that Objective.student_taps names.
    projections: trained parameters of terms, by the terms' keys.
    layer_maps: by a term's key, int32 [n], the teacher layers it compares with.
  """

  hidden: Array
  unembedding: Array
  taps: types.Taps
  projections: types.PyTree
  layer_maps: dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
  """The function that training minimizes; see `__call__`.

  Attributes:
    terms: the terms of the sum.
    selection: the positions at which terms that read logits are computed; those
      of spans are computed everywhere.
    chunk_tokens: tokens per device whose logits, over the whole vocabulary, are
      held at a time.
    modalities: how much targets of examples with and without images count; who
      calls the objective multiplies the targets' weights by it.
    shares_tower: whether the student reads what the first teacher's vision
      tower makes of images, see `shared_images`.
  """

  terms: tuple[terms_lib.Term, ...]
  selection: selection_lib.Selection
  chunk_tokens: int
  modalities: modalities_lib.Modalities = modalities_lib.EQUAL
  shares_tower: bool = False

  @property
  def needs_teacher(self) -> bool:
    return self.selection.needs_teacher or any(
      term.loss.needs_teacher for term in self.terms
    )

  @property
  def logits_terms(self) -> tuple[terms_lib.Term, ...]:
    return self._of(terms_lib.LogitsLoss)

  @property
  def layer_terms(self) -> tuple[terms_lib.Term, ...]:
    return self._of(terms_lib.LayerLoss)

  @property
  def span_terms(self) -> tuple[terms_lib.Term, ...]:
    return self._of(terms_lib.SpanLoss)

  @property
  def student_taps(self) -> types.TapSpec:
    """Returns the student's layer outputs that the terms read."""
    return layer_objective.specs(self.layer_terms)[0]

  @property
  def teacher_taps(self) -> types.TapSpec:
    """Returns the first teacher's layer outputs that its targets contain."""
    spec = layer_objective.specs(self.layer_terms)[1]
    return dataclasses.replace(spec, features=self.shares_tower)

  def shared_images(
    self, batch: types.Batch, targets: distributions.Targets | None
  ) -> types.Batch:
    """Returns the batch with the output of a shared tower, if there is one.

    Args:
      batch: the rows.
      targets: of these rows.
    """
    shared = self.shares_tower and targets is not None
    if not shared or batch.images is None:
      return batch
    (features,) = targets.taps.features
    images = batch.images.replace(pixels=None, features=features)
    return batch.replace(images=images)

  def _of(self, kind):
    return tuple(t for t in self.terms if isinstance(t.loss, kind))

  def settings(
    self, batch: types.Batch, step: Array
  ) -> step_scalars.StepScalars:
    """Returns the weights, totals and arguments for a whole batch."""
    return step_scalars.make(self.terms, self.selection.fraction, batch, step)

  def scheduled(self, settings: step_scalars.StepScalars) -> dict[str, Array]:
    """Returns the values of schedules at this step, for the metrics."""
    return step_scalars.scheduled(self.terms, self.selection.fraction, settings)

  def __call__(
    self,
    student: Student,
    targets: distributions.Targets | None,
    batch: types.Batch,
    settings: step_scalars.StepScalars,
    rng: Array,
  ) -> tuple[Array, Sums]:
    """Computes the objective of a batch or a micro-batch.

    Differentiable once, in the student's arrays.

    Args:
      student: its outputs.
      targets: the teachers' targets, or None if no term needs them.
      batch: the rows of a whole batch or of one micro-batch.
      settings: those of the whole batch.
      rng: for dropout and the random choice of positions.

    Returns:
      float32 [], the sum over terms of weight x sum / total; and the sums, for
      metrics, which carry no gradient.
    """
    layers_rng, selection_rng = jax.random.split(rng)
    layers_total, layer_sums, by_modality, bad_taps = layer_objective.total(
      self.layer_terms,
      student.projections,
      student.taps,
      targets and targets.taps,
      batch,
      settings,
      student.layer_maps,
      layers_rng,
    )
    kept, bad_scores = selection_lib.select(
      self.selection,
      settings.fraction,
      student.hidden,
      student.unembedding,
      targets,
      batch,
      selection_rng,
      self.chunk_tokens,
    )
    logits_value, sums = logits_total(
      self, student.hidden, student.unembedding, targets, kept, settings
    )
    nonfinite = sums.nonfinite
    if targets is not None:
      # Terms read the layers of the first teacher only.
      nonfinite = nonfinite.at[0].add(bad_taps) + bad_scores
    value = layers_total + logits_value
    if self.span_terms:
      outputs = student.hidden, student.unembedding, targets, batch
      of_spans, span_sums, bad_spans = span_objective.total(
        self.span_terms, *outputs, settings, self.chunk_tokens
      )
      value, nonfinite = value + of_spans, nonfinite.at[0].add(bad_spans)
      layer_sums |= span_sums
    sums = Sums(
      layer_sums | sums.losses, nonfinite, by_modality | sums.by_modality
    )
    return value, sums


@struct.dataclass
class _Inputs:
  """Non-differentiated arguments of _logits_objective."""

  distribution: distributions.Distribution | None
  labels: Array
  parts: Array
  weights: Array
  images: Array | None
  scales: dict[str, Array]
  values: dict[str, dict[str, Array]]


def no_sums(
  terms: Sequence[terms_lib.Term],
  distribution: distributions.Distribution | None,
  by_modality: bool,
) -> Sums:
  """Returns all-zero sums, also by modality if asked."""
  count = distributions.count_teachers(distribution)
  zeros = lambda *shape: {t.key: jnp.zeros(shape, jnp.float32) for t in terms}
  return Sums(
    zeros(),
    jnp.zeros(count, jnp.float32),
    zeros(len(modalities_lib.NAMES)) if by_modality else {},
  )


def _chunk_sums(terms, student, chunk):
  """Returns the scaled total of a chunk, and its Sums."""
  distribution = chunk.distribution
  teacher = distribution and distribution.project(student.shape[-1])
  inputs = terms_lib.TokenInputs(student, teacher, chunk.labels)
  sums, by_modality = {}, {}
  nonfinite = jnp.zeros(distributions.count_teachers(distribution))
  for term in terms:
    losses, finite = term.loss.per_token(inputs, chunk.values[term.key])
    weights = step_scalars.counted_weights(
      term.loss, chunk.weights, chunk.parts
    )
    sums[term.key] = jnp.sum(losses * weights)
    if chunk.images is not None:
      by_modality[term.key] = modalities_lib.sums(
        losses * weights, chunk.images
      )
    if finite:
      # Also where the term's own weight is 0: its loss is NaN there too.
      bad = [jnp.sum(~one & (chunk.weights != 0)) for one in finite]
      nonfinite += jnp.stack(bad).astype(jnp.float32)
  return total(sums, chunk.scales), Sums(sums, nonfinite, by_modality)


def total(sums: dict[str, Array], scales: dict[str, Array]) -> Array:
  """Returns the objective: the scaled sum of the terms' sums."""
  return sum(scales[key] * value for key, value in sums.items())


def _arrays(hidden, inputs):
  """Returns the arrays that are cut into chunks."""
  distribution = inputs.distribution
  arrays = distribution and distribution.per_position()
  per_target = inputs.labels, inputs.parts, inputs.weights, inputs.images
  return hidden, arrays, *per_target


def _chunk_inputs(inputs, chunk):
  """Returns the inputs at a chunk's positions."""
  _, arrays, labels, parts, weights, images = chunk
  distribution = inputs.distribution
  return inputs.replace(
    distribution=distribution and distribution.with_positions(arrays),
    labels=labels,
    parts=parts,
    weights=weights,
    images=images,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logits_objective(terms, chunk_tokens, hidden, unembedding, inputs):
  layout = chunks.Layout(inputs.weights, chunk_tokens)

  def add(sums, chunk, index):
    del index
    student = chunks.project(chunk[0], unembedding)
    _, new = _chunk_sums(terms, student, _chunk_inputs(inputs, chunk))
    return sums + new

  zeros = no_sums(terms, inputs.distribution, inputs.images is not None)
  sums = chunks.fold(add, zeros, layout, _arrays(hidden, inputs))
  return total(sums.losses, inputs.scales), sums


def _forward(terms, chunk_tokens, hidden, unembedding, inputs):
  """Computes _logits_objective, with the gradients as residuals.

  The unembedding's gradient is left out if it is not trained: the compiler
  would compute it all the same.
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
  zeros = no_sums(terms, inputs.distribution, inputs.images is not None)
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
    None if d_unembedding is None else d_unembedding * scale,
    None,
  )


_logits_objective.defvjp(_forward, _backward, symbolic_zeros=True)


def logits_total(
  objective: Objective,
  hidden: Array,
  unembedding: Array,
  targets: distributions.Targets | None,
  batch: types.Batch,
  settings: step_scalars.StepScalars,
) -> tuple[Array, Sums]:
  """Computes the terms that read logits.

  Differentiable once, in `hidden` and `unembedding`; the sums are for metrics
  and carry no gradient.

  Args:
    objective: the objective with the terms.
    hidden: [B, L, D], the student's final hidden states.
    unembedding: float32 [V, D].
    targets: the teachers' targets, or None if no term needs them.
    batch: the rows, with weights at the positions that are kept.
    settings: those of this step.

  Returns:
    float32 [], the sum over terms of weight x sum / total; and the sums.
  """
  terms = objective.logits_terms
  distribution = targets and targets.distribution
  none = no_sums((), distribution, False)
  if not terms:
    return jnp.zeros(()), none
  needed = any(term.loss.needs_teacher for term in terms)
  inputs = _Inputs(
    distribution=distribution if needed else None,
    labels=batch.targets,
    parts=batch.parts,
    weights=batch.weights,
    images=modalities_lib.with_images(batch),
    scales=step_scalars.scales(settings),
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
