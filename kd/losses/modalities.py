"""Weights of the modalities: examples with images, and text-only examples.

A target's weight is multiplied by the weight of its example's modality before
any sum, so that results do not depend on packing, micro-batches or devices. The
weights are declared in the config, and optionally divided by the gradient norm
of each modality's part of the objective (after GradNorm, arXiv 1711.02257).
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from kd.core import errors
from kd.core import schedules
from kd.core import types

Array = types.Array

_GRADIENT_NORM = 'gradient_norm'
BALANCES = ('weights', _GRADIENT_NORM)

# The order in every array with one value per modality.
NAMES = ('image', 'text')


def with_images(batch: types.Batch) -> Array | None:
  """Returns a mask of the positions of examples with images, bool [B, L].

  Returns:
    True at all positions of such an example, including text; None without
    images.
  """
  if batch.images is None:
    return None

  def row(segments, index):
    one = jnp.zeros(segments.shape[0] + 1, bool).at[segments].max(index >= 0)
    return one[segments] & (segments > 0)

  return jax.vmap(row)(batch.segment_ids, batch.images.index)


def sums(values: Array, images: Array | None) -> Array | None:
  """Sums values [...] by modality: float32 [2]; None where `images` is None."""
  if images is None:
    return None
  image = jnp.sum(jnp.where(images, values, 0.0))
  return jnp.stack([image, jnp.sum(jnp.where(images, 0.0, values))])


@dataclasses.dataclass(frozen=True, eq=False)
class Modalities:
  """The weights of the targets of each modality.

  Attributes:
    declared: weight schedule of each modality.
    decay: decay of the moving average of gradient norms that the weights are
      divided by; None to use the declared weights.
  """

  declared: tuple[schedules.Schedule, schedules.Schedule]
  decay: float | None

  def init(self) -> Array | None:
    """Returns the initial average of norms, zeros [2]; None without one."""
    return None if self.decay is None else jnp.zeros(len(NAMES))

  def weights(self, step: Array, norms: Array | None) -> Array:
    """Returns the weights of a step, float32 [2].

    Args:
      step: number of updates applied so far.
      norms: float32 [2], averages of gradient norms, 0 before the first batch
        with both modalities; None to use the declared weights.

    Returns:
      The declared weights divided by the norms, scaled to the declared sum.
    """
    numbers = [schedule(step) for schedule in self.declared]
    declared = jnp.stack([jnp.asarray(x, jnp.float32) for x in numbers])
    if norms is None:
      return declared
    measured = jnp.all(norms > 0)
    divided = declared / jnp.where(measured, norms, 1.0)
    total = jnp.sum(divided)
    scale = jnp.where(total > 0, jnp.sum(declared) / total, 1.0)
    return jnp.where(measured, divided * scale, declared)

  def averaged(
    self, norms: Array | None, new: Array | None, finite: Array
  ) -> Array | None:
    """Returns the averages, updated with the norms of a batch.

    Args:
      norms: float32 [2], the averages before the batch; None without them.
      new: float32 [2], norms of the batch, 0 for a missing modality. In that
        case nothing changes, since norms are compared within a batch. None if
        the batch has no images.
      finite: bool [], whether the update is applied.
    """
    if new is None:
      return norms
    counts = finite & jnp.all((new > 0) & jnp.isfinite(new))
    mean = self.decay * norms + (1.0 - self.decay) * new
    mean = jnp.where(jnp.all(norms > 0), mean, new)
    return jnp.where(counts, mean, norms)


EQUAL = Modalities((schedules.build(1.0, '', 1),) * 2, None)


def build(spec: Mapping[str, Any], path: str, steps: int) -> Modalities:
  """Builds the weights from the config's `objective.modalities`.

  Raises:
    ConfigError: a schedule is not legal, or no modality ever counts.
  """
  declared = tuple(
    schedules.build(spec[name], f'{path}.{name}', steps) for name in NAMES
  )
  if not any(schedules.extremes(one, steps)[1] > 0 for one in declared):
    raise errors.ConfigError(
      path, 'both weights are 0', legal='a weight above 0 of one of them'
    )
  balanced = spec['balance'] == _GRADIENT_NORM
  return Modalities(declared, spec['decay'] if balanced else None)


def weighted(batch: types.Batch, weights: Array) -> types.Batch:
  """Multiplies target weights by the modalities' weights, float32 [2]."""
  images = with_images(batch)
  if images is None:
    return batch
  factors = jnp.where(images, weights[0], weights[1])
  return batch.replace(weights=batch.weights * factors)


def probe(batch: types.Batch, norms: Array | None, width: int) -> Array | None:
  """Returns the probe for `observed`; None if no norms are needed."""
  if norms is None or batch.images is None:
    return None
  return jnp.zeros((len(NAMES), width))


def norms(
  d_probe: Array | None,
  weights: Array,
  unweighted: types.Batch,
  batch: types.Batch,
) -> Array | None:
  """Returns the gradient norm of each modality's part at weight 1.

  Args:
    d_probe: float32 [2, D], the gradient of `probe`; None without one.
    weights: float32 [2], the modalities' weights for that gradient.
    unweighted: the batch without these weights.
    batch: the batch with these weights.

  Returns:
    float32 [2], 0 for a modality with weight 0 or without examples.
  """
  if d_probe is None:
    return None
  # The objective divides by the total of the weights.
  total = jnp.maximum(jnp.sum(unweighted.weights), 1e-30)
  scale = jnp.sum(batch.weights) / total
  norm = jnp.sqrt(jnp.sum(jnp.square(d_probe), axis=1))
  return jnp.where(weights > 0, norm * scale / weights, 0.0)


def scalars(
  batch: types.Batch, weights: Array, new: Array | None
) -> dict[str, Array]:
  """Returns metrics of a batch; {} without images.

  Args:
    batch: the batch with the modalities' weights.
    weights: float32 [2], these weights.
    new: float32 [2], the batch's gradient norms, or None.
  """
  images = with_images(batch)
  if images is None:
    return {}
  by_modality = sums(batch.weights, images)
  total = jnp.maximum(jnp.sum(by_modality), 1e-30)
  metrics = {'weight': weights, 'fraction': by_modality / total}
  if new is not None:
    metrics['gradient_norm'] = new
  return {
    f'modality/{name}/{metric}': values[i]
    for metric, values in metrics.items()
    for i, name in enumerate(NAMES)
  }


@jax.custom_vjp
def observed(hidden: Array, images: Array, probe: Array) -> Array:
  """Returns `hidden`; its gradient is summed in the gradient of `probe`.

  The result represents hidden x (1 + probe of the position's modality) at a
  probe of zeros. The probe's gradient is that of a factor on each channel of
  the final norm's output, the last parameters that all tokens share, restricted
  to the positions of each modality. It adds up over micro-batches.

  Args:
    hidden: [B, L, D], the final hidden states.
    images: bool [B, L], from with_images.
    probe: float32 [2, D], zeros.
  """
  del images, probe
  return hidden


def _observe(hidden, images, probe):
  del probe
  return hidden, (hidden, images)


def _pull_back(residuals, gradient):
  hidden, images = residuals
  # In float32: a sum over all tokens.
  products = hidden.astype(jnp.float32) * gradient.astype(jnp.float32)
  chosen = jnp.stack([images, ~images]).astype(jnp.float32)
  return gradient, None, jnp.einsum('mbl,bld->md', chosen, products)


observed.defvjp(_observe, _pull_back)
