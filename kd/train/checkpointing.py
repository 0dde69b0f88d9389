"""Saves a run's state to checkpoints and restores it."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax

from kd.checkpoints import manager as manager_lib
from kd.checkpoints import repair
from kd.core import errors
from kd.core import types
from kd.partitioning import processes
from kd.train import update

# The names of these items in a checkpoint.
_FEED_STATE, _PROJECTIONS = 'rollouts', 'paths'


@dataclasses.dataclass(frozen=True)
class ResumeInfo:
  """The part of a checkpoint that is stored as JSON.

  Attributes:
    rows: digest of the rows and their order.
    window: state of train_metrics.MetricsWindow.
    evaluated: whether this step's evaluation, if one is due, is done.
    stop: state of early_stop.EarlyStop after it.
  """

  rows: str
  window: Mapping[str, Any]
  evaluated: bool
  stop: Mapping[str, Any]


class Saver:
  """Saves checkpoints and restores the last good one."""

  def __init__(self, workdir: str, keep: int, say: Callable[[str], None]):
    """Moves damaged checkpoints aside and opens the good ones.

    Args:
      workdir: folder of the job's files.
      keep: number of latest checkpoints to keep.
      say: function called with a line for each damaged checkpoint.

    Raises:
      ConfigError: all checkpoints are damaged.
    """
    folder = manager_lib.folder_of(workdir)
    # The first process must move them before any other process opens them.
    for line in processes.from_first(lambda: repair.repair(folder)):
      say(line)
    self._manager = manager_lib.Manager(workdir, keep)

  @property
  def latest(self) -> int | None:
    """The step of the last checkpoint, or None."""
    return self._manager.latest_step()

  @property
  def steps(self) -> list[int]:
    """The steps of the kept checkpoints, in increasing order."""
    return self._manager.steps()

  @property
  def best(self) -> int | None:
    """The step of the best checkpoint, or None."""
    return self._manager.best_step()

  @property
  def folder(self) -> str:
    """The folder of the checkpoints."""
    return self._manager.folder

  def feed_state_names(self, step: int) -> set[str]:
    """Returns the names of the feed's arrays in a checkpoint."""
    prefix = f'{_FEED_STATE}/'
    leaves = self._manager.leaves(step, 'optimizer')
    return {x.removeprefix(prefix) for x in leaves if x.startswith(prefix)}

  def restore(
    self,
    step: int,
    like: update.TrainState,
    feed_state: Mapping[str, types.Array],
    rows: str,
  ) -> tuple[update.TrainState, Mapping[str, types.Array], ResumeInfo]:
    """Reads a state into the shapes and shardings of `like`.

    Args:
      step: step of the checkpoint.
      like: shapes and shardings to restore into.
      feed_state: likewise for the feed's state; {} if it has none.
      rows: the expected ResumeInfo.rows.

    Returns:
      The state, the feed's state, and the ResumeInfo.

    Raises:
      ConfigError: the checkpoint has another model, optimizer or rows.
    """
    items, position = self._manager.restore(step, _items(like, feed_state))
    items = {manager_lib.EMA: None, **items}
    position = ResumeInfo(**position)
    if position.rows != rows:
      raise errors.ConfigError(
        f'{self._manager.folder}/{step}',
        f'was trained on rows with digest {position.rows}; the config selects '
        f'rows with digest {rows}',
      )
    saved_feed_state = items['optimizer'].pop(_FEED_STATE, {})
    state = update.TrainState(
      step=jax.numpy.asarray(step, jax.numpy.int32),
      params=items['params'],
      ema=items[manager_lib.EMA],
      projections=items['optimizer'].pop(_PROJECTIONS, {}),
      **{'layer_maps': {}, **items['optimizer']},
    )
    return state, saved_feed_state, position

  def save(
    self,
    step: int,
    state: update.TrainState,
    feed_state: Mapping[str, types.Array],
    position: ResumeInfo,
    quality: float | None,
  ) -> None:
    """Starts a save; raises KdError if an earlier one failed.

    Args:
      step: number of updates so far.
      state: state after these updates.
      feed_state: state of the feed; {} if it has none.
      position: JSON part of the checkpoint.
      quality: result of this step's evaluation, lower is better; None without
        evaluation.
    """
    as_json = dataclasses.asdict(position)
    self._manager.save(step, _items(state, feed_state), as_json, quality)

  def set_quality(self, step: int, quality: float) -> None:
    """Sets the quality of a checkpoint that was saved without one."""
    self._manager.set_quality(step, quality)

  def check(self, step: int) -> None:
    """Raises KdError if a save in the background has failed."""
    self._manager.check(step)

  def wait(self, step: int) -> None:
    """Waits until every save is complete; raises KdError if one failed."""
    self._manager.wait(step)

  def close(self) -> None:
    self._manager.close()


def _items(
  state: update.TrainState, feed_state: Mapping[str, types.PyTree]
) -> dict[str, types.PyTree]:
  """Returns a state as items of a checkpoint, which is named by its step."""
  parts = {
    'opt_state': state.opt_state,
    'rng': state.rng,
    _PROJECTIONS: state.projections,
    'layer_maps': state.layer_maps,
    'modality_norms': state.modality_norms,
    _FEED_STATE: dict(feed_state),
  }
  # Orbax writes neither empty dicts nor None.
  filled = {k: v for k, v in parts.items() if jax.tree.leaves(v)}
  items = {'params': state.params, 'optimizer': filled}
  return items if state.ema is None else {**items, manager_lib.EMA: state.ema}
