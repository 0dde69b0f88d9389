"""The objective: weighted terms over a batch's target tokens."""

import dataclasses

from flax import struct
import jax

from kd.core import types
from kd.losses import distributions
from kd.losses import importance as importance_lib
from kd.losses import layer_objective
from kd.losses import logits_objective
from kd.losses import modalities as modalities_lib
from kd.losses import selection as selection_lib
from kd.losses import span_objective
from kd.losses import step_scalars
from kd.losses import terms as terms_lib

Array = types.Array


@struct.dataclass
class Student:
  """The student's outputs that the objective uses.

  Attributes:
    hidden: [B, L, D], final hidden states.
    unembedding: float32 [V, D].
    taps: the layer outputs that Objective.student_taps names.
    projections: trained parameters of terms, by the term's key.
    layer_maps: int32 [n], adaptive layer map of a term, by the term's key.
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
    selection: the positions at which terms that use logits are computed; terms
      that use spans are computed everywhere.
    chunk_tokens: tokens per device whose logits, over the whole vocabulary, are
      computed at a time.
    modalities: weights of targets of examples with and without images; the
      caller multiplies the targets' weights by them.
    shares_tower: whether the student uses the features of the first teacher's
      vision tower, see `shared_images`.
    importance: weighting of tokens that the student sampled, in terms that use
      logits; None without importance weights.
    teachers: names of the teachers for metrics, if examples are divided among
      them; else ().
  """

  terms: tuple[terms_lib.Term, ...]
  selection: selection_lib.Selection
  chunk_tokens: int
  modalities: modalities_lib.Modalities = modalities_lib.EQUAL
  shares_tower: bool = False
  importance: importance_lib.Importance | None = None
  teachers: tuple[str, ...] = ()

  def with_vocabulary(self, size: int) -> 'Objective':
    """Returns the objective of a student that samples the first `size` ids."""
    if self.importance is None:
      return self
    rule = dataclasses.replace(self.importance, vocab_size=size)
    return dataclasses.replace(self, importance=rule)

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
    """Returns the student's layer outputs that the terms use."""
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
      targets: the teachers' targets for these rows, or None.
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

  def logits_total(
    self, *arguments: types.PyTree
  ) -> tuple[Array, logits_objective.Sums]:
    """Computes the terms that use logits; see logits_objective.total."""
    return logits_objective.total(
      self.logits_terms, self.chunk_tokens, *arguments, self.importance
    )

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
  ) -> tuple[Array, logits_objective.Sums]:
    """Computes the objective of a batch or a micro-batch.

    Differentiable once, in the student's arrays.

    Args:
      student: the student's outputs.
      targets: the teachers' targets, or None if no term needs them.
      batch: the rows of a whole batch or of one micro-batch.
      settings: scalars of the whole batch.
      rng: random key for dropout and the random choice of positions.

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
      targets is not None and targets.mapped,
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
    logits_value, sums = self.logits_total(
      student.hidden, student.unembedding, targets, kept, settings
    )
    nonfinite = sums.nonfinite
    if targets is not None:
      # Terms use only the layers of the first teacher.
      nonfinite = nonfinite.at[0].add(bad_taps) + bad_scores
    value = layers_total + logits_value
    if self.span_terms:
      outputs = student.hidden, student.unembedding, targets, batch
      of_spans, span_sums, bad_spans = span_objective.total(
        self.span_terms, *outputs, settings, self.chunk_tokens
      )
      value, nonfinite = value + of_spans, nonfinite.at[0].add(bad_spans)
      layer_sums |= span_sums
    sums = logits_objective.Sums(
      layer_sums | sums.losses,
      nonfinite,
      by_modality | sums.by_modality,
      sums.importance,
      sums.by_teacher,
    )
    return value, sums
