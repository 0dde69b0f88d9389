"""Recomputes the layer maps of adaptive terms during training."""

from collections.abc import Sequence
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from kd.core import types
from kd.losses import distributions
from kd.losses import layer_maps
from kd.losses import layer_objective
from kd.losses import objective as objective_lib
from kd.losses import terms as terms_lib
from kd.models import family
from kd.train import update

_LOG = logging.getLogger(__name__)


class AdaptiveLayerMap:
  """Recomputes adaptive layer maps every `remap_every` updates."""

  def __init__(self, model: family.Model, objective: objective_lib.Objective):
    self._terms = objective.layer_terms
    self._adaptive = [t for t in self._terms if t.loss.remap_every]
    self._maps: dict[str, np.ndarray] | None = None
    self._mapped = jax.jit(
      functools.partial(layer_objective.mapped, self._terms)
    )
    self._measure = jax.jit(
      lambda params, batch, shown: _similarities(
        self._adaptive,
        self._terms,
        model.forward(params, batch, objective.student_taps)[1],
        shown,
        batch,
      )
    )

  def maps(
    self, step: int, state: update.TrainState
  ) -> dict[str, np.ndarray] | None:
    """Returns the maps whose layers a step's targets need.

    Returns:
      Maps by term; None without adaptive terms, and for steps that recompute
      maps, which need all layers.
    """
    if not self._adaptive or self.due(step):
      return None
    if self._maps is None:
      self._maps = jax.device_get(state.layer_maps)
    # On the host, so that teachers on other devices do not wait for the state.
    return self._maps

  def due(self, step: int) -> list[terms_lib.Term]:
    """Returns the terms whose map is recomputed before update `step` + 1."""
    return [t for t in self._adaptive if step % t.loss.remap_every == 0]

  def __call__(
    self,
    step: int,
    state: update.TrainState,
    batch: types.Batch,
    targets: distributions.Targets | None,
  ) -> tuple[update.TrainState, distributions.Targets | None]:
    """Returns the state with due maps recomputed on the batch, and the targets.

    The returned targets have only the layers of the maps.
    """
    if not self._adaptive or targets is None:
      return state, targets
    state = self._remapped(step, state, batch, targets)
    if not targets.mapped:
      taps = self._mapped(targets.taps, state.layer_maps)
      targets = targets.replace(taps=taps, mapped=True)
    return state, targets

  def _remapped(self, step, state, batch, targets):
    due = self.due(step)
    if not due:
      return state
    found = jax.device_get(self._measure(state.params, batch, targets.taps))
    maps = dict(state.layer_maps)
    for term in due:
      similarity = found[term.key]
      if not np.isfinite(similarity).all():
        continue  # The update on this batch will not be finite either.
      chosen = layer_maps.choose(similarity)
      maps[term.key] = jnp.asarray(chosen, jnp.int32)
      _LOG.info(
        "step %d: losses.%s compares layers %s with the teacher's %s "
        '(similarity %s)',
        step,
        term.key,
        list(term.loss.student_hidden),
        chosen.tolist(),
        np.round(similarity[np.arange(len(chosen)), chosen], 3).tolist(),
      )
    self._maps = jax.device_get(maps)
    return state.replace(layer_maps=maps)


def _similarities(
  adaptive: Sequence[terms_lib.Term],
  terms: Sequence[terms_lib.Term],
  student: types.Taps,
  teacher: types.Taps,
  batch: types.Batch,
):
  found = {}
  for term in adaptive:
    own, others = layer_objective.pick(terms, term, student, teacher)
    found[term.key] = term.loss.similarity(own, others, batch)
  return found
