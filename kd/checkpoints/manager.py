"""Saves and restores training state with Orbax."""

import asyncio
from collections.abc import Mapping, Sequence
import contextlib
import glob
import json
import math
import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from kd.checkpoints import digests
from kd.checkpoints import orbax_buckets
from kd.checkpoints import steps as steps_lib
from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import layout
from kd.core import objects
from kd.core import types
from kd.partitioning import processes

FOLDER = layout.CHECKPOINTS
# Separate items, so that another run can read only the parameters. Only runs
# with a moving average of parameters have EMA.
EMA = 'ema'
ITEMS = ('params', 'optimizer', EMA)
# Orbax limits the time of a save by the wall clock, which may jump.
# kd.partitioning detects a process that dies during a save.
_NEVER_S = 10 * 24 * 3600


def folder_of(workdir: str) -> str:
  """Returns the path, or URL in a bucket, of a workdir's checkpoints."""
  return buckets.remote(os.path.join(workdir, FOLDER))


def latest_step(workdir: str) -> int | None:
  """Returns the step of a workdir's latest checkpoint; None without one."""
  return max(steps_lib.of(folder_of(workdir)), default=None)


def best_step(workdir: str) -> int | None:
  """Returns the step with the lowest quality metric; None without any.

  It only reads files, so a single process may call it. A Manager must be opened
  by all processes.

  Raises:
    ConfigError: a file with a quality metric is damaged.
  """
  best, lowest = None, math.inf
  for step in steps_lib.of(folder_of(workdir)):
    folder = os.path.join(folder_of(workdir), str(step))
    try:
      figure = digests.figure(folder)
    except ValueError as e:
      raise errors.ConfigError(
        os.path.join(folder, digests.FIGURE),
        f'cannot be read: {e}',
        legal='the file as it was written; training moves such a checkpoint '
        f'to {layout.DAMAGED_CHECKPOINTS}/',
      ) from e
    # Ties go to the latest checkpoint.
    if figure is not None and figure <= lowest and figure < math.inf:
      best, lowest = step, figure
  return best


async def _check(checkpoint):
  # Orbax finalizes each item of a checkpoint before the checkpoint itself.
  if checkpoint.get_final().name.isdigit():
    await asyncio.to_thread(_check_readable, checkpoint)


def _check_readable(checkpoint):
  folder = checkpoint.get()
  for item in filter(lambda name: (folder / name).exists(), ITEMS):
    # Raises ValueError unless every array's metadata can be read back.
    ocp.StandardCheckpointHandler().metadata(folder / item)
  digests.write(str(folder), int(checkpoint.get_final().name))


class _Checked(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A checkpoint that gets its final name once it has been checked."""

  async def finalize(self):
    await _check(self)
    await super().finalize()


class _CheckedObjects(ocp.path.atomicity.CommitFileTemporaryPath):
  """A checkpoint in a bucket, committed once it has been checked.

  It has its final name from the start, as buckets cannot rename.
  """

  async def finalize(self):
    await _check(self)
    await super().finalize()


def _literal(folder: str, read_only: bool) -> str:
  """Returns a path to a folder without special characters of glob.

  Orbax finds the parts of a checkpoint with glob patterns that begin with its
  path, which fails in a folder such as 'batch=[8]'.
  """
  if objects.is_url(folder) or glob.escape(folder) == folder:
    return folder
  links = os.path.join(os.path.expanduser('~'), '.cache', 'kd', 'links')
  link = os.path.join(links, identity.digest(folder))
  os.makedirs(links, exist_ok=True)
  if not read_only:
    os.makedirs(os.path.dirname(folder), exist_ok=True)
  # Another process may have created the link, always with the same target.
  with contextlib.suppress(FileExistsError):
    os.symlink(os.path.dirname(folder), link)
  return os.path.join(link, os.path.basename(folder))


class Manager:
  """Saves in the background; keeps the latest and the best checkpoints."""

  def __init__(self, workdir: str, keep: int, read_only: bool = False):
    """Opens the checkpoints of a workdir.

    Args:
      workdir: the run's folder.
      keep: number of latest checkpoints to keep, in addition to the best one.
      read_only: whether creating and deleting files is disabled.

    Raises:
      ConfigError: the quality metrics of the checkpoints cannot be read.
    """
    self.folder = folder_of(workdir)
    if objects.is_url(self.folder):
      orbax_buckets.prepare()
    self._workdir = workdir
    self._literal_folder = _literal(self.folder, read_only)
    try:
      self._manager = self._open(keep, read_only)
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as e:
      if isinstance(e, OSError) and (
        objects.is_url(self.folder) or not read_only
      ):
        raise  # A fault of the store, or of a folder that cannot be written.
      raise errors.ConfigError(self.folder, f'cannot be read: {e}') from e

  def _open(self, keep, read_only):
    policies = ocp.checkpoint_managers
    return ocp.CheckpointManager(
      self._literal_folder,
      # Explicit handlers, so that a manager can read before it has saved.
      item_handlers={
        **{name: ocp.StandardCheckpointHandler() for name in ITEMS},
        'position': ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(
        save_decision_policy=policies.FixedIntervalPolicy(1),
        preservation_policy=policies.AnyPreservationPolicy(
          [
            policies.LatestN(keep),
            policies.BestN(
              get_metric_fn=lambda m: -m[digests.METRIC],
              n=1,
              keep_checkpoints_without_metrics=False,
            ),
          ]
        ),
        best_fn=lambda m: -m[digests.METRIC],
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        temporary_path_class=(
          _CheckedObjects if objects.is_url(self.folder) else _Checked
        ),
        async_options=ocp.AsyncOptions(
          timeout_secs=_NEVER_S,
          # If a folder cannot be created, threads that write into it would
          # wait for minutes and keep the process from exiting.
          create_directories_asynchronously=False,
        ),
      ),
    )

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """Returns the steps of the kept checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def best_step(self) -> int | None:
    """Returns the step with the lowest quality metric; None without any."""
    return best_step(self._workdir)

  def save(
    self,
    step: int,
    items: Mapping[str, types.PyTree],
    position: Mapping[str, Any],
    quality: float | None,
  ) -> None:
    """Starts a save; returns when the arrays may be modified again.

    Args:
      step: number of optimizer updates.
      items: trees of arrays by item, one of ITEMS.
      position: JSON state of the data and the metrics.
      quality: quality metric, lower is better; None if not measured.

    Raises:
      KdError: an earlier save failed, or this one could not start.
    """
    # Without a metric, Orbax would warn at each save; infinity ranks last.
    metrics = {digests.METRIC: math.inf if quality is None else quality}
    args = ocp.args.Composite(
      **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
      position=ocp.args.JsonSave(dict(position)),
    )
    self._guard(
      step, lambda: self._manager.save(step, args=args, metrics=metrics)
    )

  def set_quality(self, step: int, quality: float) -> None:
    """Sets the quality metric of a checkpoint after its save."""
    # The file in which Orbax stores the metric; it has no digest.
    path = os.path.join(self.folder, str(step), digests.FIGURE)
    figure = json.dumps({digests.METRIC: quality})
    processes.from_first(lambda: atomic_files.write_text(path, figure))
    self._manager.reload()

  def check_whole(self, step: int, items: Sequence[str], path: str) -> None:
    """Raises ConfigError, naming the file, if items are damaged.

    Args:
      step: step of the checkpoint.
      items: items to check, from ITEMS.
      path: config path of the checkpoint, for the message.
    """
    folder = os.path.join(self.folder, str(step))
    wrong = digests.problem(folder, items)
    if wrong:
      raise errors.ConfigError(
        path,
        f'checkpoint {folder} is damaged: {wrong}',
        legal='the files as they were written; the command that trained the '
        'run resumes from the latest intact checkpoint',
      )

  def check(self, step: int) -> None:
    """Raises KdError if a background save has failed."""
    self._guard(step, self._manager.check_for_errors)

  def wait(self, step: int) -> None:
    """Waits until all saves are complete; raises KdError if one failed."""
    self._guard(step, self._manager.wait_until_finished)

  def _guard(self, step, call):
    try:
      call()
    except (OSError, ValueError, RuntimeError) as e:
      raise errors.KdError(
        f'{self.folder}: saving failed at step {step}: {e}; earlier '
        'checkpoints are kept'
      ) from e

  def leaves(self, step: int, name: str) -> set[str]:
    """Returns the paths of an item's arrays, in the format of leaf_path.

    Args:
      step: step of the checkpoint.
      name: name of the item, from ITEMS.

    Returns:
      The paths; an empty set if the checkpoint does not have the item.
    """
    item = self._manager.directory / str(step) / name
    return set(_shapes(_metadata(item))) if item.exists() else set()

  def restore(
    self, step: int, like: Mapping[str, types.PyTree]
  ) -> tuple[dict[str, types.PyTree], Any]:
    """Reads items of a checkpoint into the shapes and shardings of `like`.

    Args:
      step: step of the checkpoint.
      like: by item, a tree of arrays or jax.ShapeDtypeStruct with shardings.

    Returns:
      The items and the position given to `save`.

    Raises:
      ConfigError: the checkpoint has a missing or extra leaf, or one of another
        shape.
    """
    for name, tree in like.items():
      self._check_tree(step, name, tree)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        position=ocp.args.JsonRestore(),
        **{k: ocp.args.StandardRestore(v) for k, v in like.items()},
      ),
    )
    return {name: restored[name] for name in like}, restored['position']

  def _check_tree(self, step, name, like):
    """Raises ConfigError, naming each leaf that differs from `like`."""
    # The manager would read the metadata of all items, even damaged ones.
    item = self._manager.directory / str(step) / name
    found = _shapes(_metadata(item)) if item.exists() else {}
    expected = _shapes(like)
    problems = []
    for leaf in sorted(expected.keys() | found.keys()):
      if leaf not in found:
        problems.append(f'{leaf}: missing, expected {expected[leaf]}')
      elif leaf not in expected:
        problems.append(f'{leaf}: unexpected, found {found[leaf]}')
      elif found[leaf] != expected[leaf]:
        problems.append(
          f'{leaf}: found {found[leaf]}, expected {expected[leaf]}'
        )
    if problems:
      shown = '\n  '.join(problems[:20])
      raise errors.ConfigError(
        f'{self.folder}/{step}/{name}',
        f'the checkpoint was written by another model or optimizer:\n  {shown}',
      )

  def close(self) -> None:
    self._manager.close()


def leaf_path(keys: tuple[Any, ...]) -> str:
  """Returns a leaf's path, with NamedTuple fields written like dict keys."""
  return jax.tree_util.keystr(keys, simple=True, separator='/')


def _metadata(item):
  return ocp.StandardCheckpointHandler().metadata(item)


def _shapes(tree):
  """Returns the shapes of a tree's leaves by path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {leaf_path(keys): tuple(leaf.shape) for keys, leaf in leaves}
