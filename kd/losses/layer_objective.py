"""The part of the objective that uses layer outputs."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import modalities
from kd.losses import step_scalars
from kd.losses import terms as terms_lib

Array = types.Array


def specs(
  terms: Sequence[terms_lib.Term],
) -> tuple[types.TapSpec, types.TapSpec]:
  """Returns the layer outputs of student and teacher that terms use."""

  def union(side, kind):
    field = f'{side}_{kind}'
    return tuple(sorted({i for t in terms for i in getattr(t.loss, field)}))

  soft_tokens = any(t.loss.soft_tokens for t in terms)

  def spec(side):
    layers = [union(side, kind) for kind in ('hidden', 'attention', 'tower')]
    return types.TapSpec(*layers, soft_tokens)

  return spec('student'), spec('teacher')


def _pick(taps, spec, hidden, attention, tower, soft_tokens):
  """Selects a term's layers from the layers of all terms."""

  def take(x, all_layers, layers):
    if not layers:
      return None
    if layers == all_layers:
      return x
    return x[jnp.array([all_layers.index(i) for i in layers])]

  return types.Taps(
    hidden=take(taps.hidden, spec.hidden, hidden),
    query=take(taps.query, spec.attention, attention),
    key=take(taps.key, spec.attention, attention),
    value=take(taps.value, spec.attention, attention),
    tower=take(taps.tower, spec.tower, tower),
    soft_tokens=taps.soft_tokens if soft_tokens else None,
  )


def mapped(
  terms: Sequence[terms_lib.Term],
  taps: types.Taps,
  layer_maps: Mapping[str, Array],
) -> types.Taps:
  """Returns the teacher's layer outputs that terms use with these maps.

  Layers of terms with fixed maps come first, then those of each adaptive term.

  Args:
    terms: all terms that use layer outputs.
    taps: the teacher's layer outputs, for all layers that a map may contain.
    layer_maps: indices into the layers of a term, int32 [n], by the term's key.
  """
  _, spec = specs(terms)
  fixed = _fixed(terms)
  of_fixed = [fixed.hidden, fixed.attention, fixed.tower]
  shown = _pick(taps, spec, *of_fixed, fixed.soft_tokens)
  parts = [] if shown.hidden is None else [shown.hidden]
  for term in terms:
    if term.loss.remap_every:
      layers = [spec.hidden.index(i) for i in term.loss.teacher_hidden]
      parts.append(taps.hidden[jnp.array(layers)[layer_maps[term.key]]])
  if parts:
    shown = shown.replace(hidden=jnp.concatenate(parts))
  return shown.replace(features=taps.features)


def _fixed(terms):
  """Returns the teacher's layer outputs that terms with fixed maps use."""
  return specs([t for t in terms if not t.loss.remap_every])[1]


def _adaptive_taps(terms, term, taps):
  """Returns an adaptive term's part of the result of `mapped`."""
  fixed = _fixed(terms)
  start = len(fixed.hidden)
  for other in terms:
    size = len(other.loss.layer_map) if other.loss.remap_every else 0
    if other is term:
      return types.Taps(taps.hidden[start : start + size], None, None, None)
    start += size
  raise AssertionError(f'{term.key} is not among the terms')


def pick(
  terms: Sequence[terms_lib.Term],
  term: terms_lib.Term,
  student: types.Taps,
  teacher: types.Taps,
  is_mapped: bool = False,
) -> tuple[types.Taps, types.Taps]:
  """Returns the layer outputs of student and teacher that `term` uses.

  Args:
    terms: all terms that use layer outputs.
    term: one of them.
    student: the student's layer outputs for all terms.
    teacher: the teacher's layer outputs for all terms.
    is_mapped: whether `teacher` is a result of `mapped`.
  """
  loss = term.loss
  student_spec, teacher_spec = specs(terms)
  own = loss.student_hidden, loss.student_attention, loss.student_tower
  shown = _pick(student, student_spec, *own, loss.soft_tokens)
  if is_mapped and loss.remap_every:
    return shown, _adaptive_taps(terms, term, teacher)
  if is_mapped:
    teacher_spec = _fixed(terms)
    fixed = teacher.hidden
    if fixed is not None:
      fixed = fixed[: len(teacher_spec.hidden)]
    teacher = teacher.replace(hidden=fixed)
  other = loss.teacher_hidden, loss.teacher_attention, loss.teacher_tower
  return shown, _pick(teacher, teacher_spec, *other, loss.soft_tokens)


def init(
  terms: Sequence[terms_lib.Term], rng: Array
) -> tuple[dict[str, types.PyTree], dict[str, Array]]:
  """Returns initial parameters and layer maps of the terms that have them."""
  keys = jax.random.split(rng, max(len(terms), 1))
  projections = {
    t.key: t.loss.init(k) for t, k in zip(terms, keys, strict=False)
  }
  layer_maps = {
    t.key: jnp.asarray(t.loss.layer_map, jnp.int32)
    for t in terms
    if t.loss.layer_map is not None
  }
  return {k: v for k, v in projections.items() if v}, layer_maps


def total(
  terms: Sequence[terms_lib.Term],
  projections: dict[str, types.PyTree],
  student: types.Taps,
  teacher: types.Taps | None,
  batch: types.Batch,
  settings: step_scalars.StepScalars,
  layer_maps: dict[str, Array],
  rng: Array,
  is_mapped: bool = False,
) -> tuple[Array, dict[str, Array], dict[str, Array], Array]:
  """Computes the terms that use layer outputs.

  Args:
    terms: terms whose loss is a LayerLoss.
    projections: the terms' parameters, by key.
    student: the student's layer outputs for all terms.
    teacher: the teacher's layer outputs for all terms, which get no gradient.
    batch: the rows.
    settings: scalars of this step.
    layer_maps: adaptive layer maps, by key.
    rng: random key for dropout.
    is_mapped: whether `teacher` is a result of `mapped`.

  Returns:
    The sum over terms of weight x sum / total, float32 []; the sum of each
    term, also by modality, see logits_objective.Sums; and the number of tokens
    at which the teacher's layer outputs are not finite, float32 [].
  """
  scales = step_scalars.scales(settings)
  value, sums, by_modality = jnp.zeros(()), {}, {}
  images = modalities.with_images(batch)
  for number, term in enumerate(terms):
    own, others = pick(terms, term, student, teacher, is_mapped)
    losses = term.loss.per_token(
      projections.get(term.key, {}),
      own,
      jax.lax.stop_gradient(others),
      batch,
      settings.values[term.key],
      None if is_mapped else layer_maps.get(term.key),
      jax.random.fold_in(rng, number),
    )
    weights = step_scalars.weights_of(term.loss, batch)
    # The loss of a target that does not count may be NaN.
    losses = jnp.where(weights != 0, losses, 0.0)
    sums[term.key] = jnp.sum(losses * weights)
    if images is not None:
      by_modality[term.key] = modalities.sums(losses * weights, images)
    value += scales[term.key] * sums[term.key]
  bad = _nonfinite(terms, teacher, batch) if terms else jnp.zeros(())
  sums, by_modality = jax.lax.stop_gradient((sums, by_modality))
  return value, sums, by_modality, bad


def _nonfinite(terms, teacher, batch):
  """Counts tokens at which the teacher's layer outputs are not finite.

  Hidden states are checked where a term counts. Queries, keys and values are
  checked at every token that is not padding, since targets attend to them.
  """

  def bad(x, counted):
    # A sum is not finite if one of its terms is not.
    total = jnp.sum(x, axis=(0, *range(3, x.ndim)), dtype=jnp.float32)
    return jnp.sum(~jnp.isfinite(total) & counted).astype(jnp.float32)

  attention = [teacher.query, teacher.key, teacher.value]
  counts = [bad(x, batch.segment_ids > 0) for x in attention if x is not None]
  counted = batch.weights != 0
  for term in terms:
    if term.loss.part == terms_lib.IMAGE:
      counted |= step_scalars.weights_of(term.loss, batch) != 0
  states = [teacher.hidden, teacher.tower, teacher.soft_tokens]
  counts += [bad(x, counted) for x in states if x is not None]
  return jax.lax.stop_gradient(sum(counts, jnp.zeros(())))
