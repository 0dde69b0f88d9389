"""Training state on disk, through Orbax."""

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
# Apart, so that another run can read the parameters alone. The average of
# parameters is in checkpoints of runs that keep one.
EMA = 'ema'
ITEMS = ('params', 'optimizer', EMA)
# Orbax limits a save by the clock on the wall, which may jump. A process that
# dies meanwhile is noticed by kd.partitioning.
_NEVER_S = 10 * 24 * 3600


def folder_of(workdir: str) -> str:
  """Returns the folder of a workdir's checkpoints, of a bucket its URL."""
  return buckets.remote(os.path.join(workdir, FOLDER))


def latest_step(workdir: str) -> int | None:
  """Returns the step of a workdir's latest checkpoint, None without one."""
  return max(steps_lib.of(folder_of(workdir)), default=None)


def best_step(workdir: str) -> int | None:
  """Returns the step with the lowest quality figure, None without a figure.

  Reads files alone, so one process of several may call it: opening a Manager is
  for all of them.

  Raises:
    ConfigError: a file with a figure is damaged.
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
        legal='the file as it was written; training puts such a checkpoint '
        'aside',
      ) from e
    # Of equal ones the latest.
    if figure is not None and figure <= lowest and figure < math.inf:
      best, lowest = step, figure
  return best


async def _check(checkpoint):
  # Orbax finalizes each item of a checkpoint, and then the checkpoint.
  if checkpoint.get_final().name.isdigit():
    await asyncio.to_thread(_check_readable, checkpoint)


def _check_readable(checkpoint):
  folder = checkpoint.get()
  for item in filter(lambda name: (folder / name).exists(), ITEMS):
    # Raises ValueError unless every array's metadata can be read back.
    ocp.StandardCheckpointHandler().metadata(folder / item)
  digests.write(str(folder), int(checkpoint.get_final().name))


class _Checked(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A checkpoint that gets its final name once it is known to be readable."""

  async def finalize(self):
    await _check(self)
    await super().finalize()


class _CheckedObjects(ocp.path.atomicity.CommitFileTemporaryPath):
  """A checkpoint in a bucket; its commit object is written once it is checked.

  It has its final name before: a bucket cannot rename.
  """

  async def finalize(self):
    await _check(self)
    await super().finalize()


def _literal(folder: str, read_only: bool) -> str:
  """Returns a path to a folder that holds none of glob's special characters.

  Orbax looks for the parts of a checkpoint by glob patterns that begin with its
  path, so it would not find those in a folder such as 'batch=[8]'.
  """
  if objects.is_url(folder) or glob.escape(folder) == folder:
    return folder
  links = os.path.join(os.path.expanduser('~'), '.cache', 'kd', 'links')
  link = os.path.join(links, identity.digest(folder))
  os.makedirs(links, exist_ok=True)
  if not read_only:
    os.makedirs(os.path.dirname(folder), exist_ok=True)
  # It always points to the same folder, so another process may have made it.
  with contextlib.suppress(FileExistsError):
    os.symlink(os.path.dirname(folder), link)
  return os.path.join(link, os.path.basename(folder))


class Manager:
  """Saves in the background, keeps the latest and the best checkpoints."""

  def __init__(self, workdir: str, keep: int, read_only: bool = False):
    """Opens the checkpoints of a workdir.

    Args:
      workdir: the run's folder.
      keep: how many of the latest stay, in addition to the best one.
      read_only: nothing is created or deleted.

    Raises:
      ConfigError: the figures that rank the checkpoints cannot be read.
    """
    self.folder = folder_of(workdir)
    if objects.is_url(self.folder):
      orbax_buckets.prepare()
    self._workdir = workdir
    self._literal_folder = _literal(self.folder, read_only)
    try:
      self._manager = self._open(keep, read_only)
    except (ValueError, KeyError, TypeError, RecursionError) as e:
      raise errors.ConfigError(self.folder, f'cannot be read: {e}') from e

  def _open(self, keep, read_only):
    policies = ocp.checkpoint_managers
    return ocp.CheckpointManager(
      self._literal_folder,
      # Named, so that a manager that has saved nothing can read.
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
          # Where a folder cannot be made, threads that write into it would
          # wait for it for minutes, and keep the process from ending.
          create_directories_asynchronously=False,
        ),
      ),
    )

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints that are kept, rising."""
    return sorted(self._manager.all_steps())

  def best_step(self) -> int | None:
    """The step with the lowest quality figure, if any was given one."""
    return best_step(self._workdir)

  def save(
    self,
    step: int,
    items: Mapping[str, types.PyTree],
    position: Mapping[str, Any],
    quality: float | None,
  ) -> None:
    """Starts a save; returns when the arrays may change again.

    Args:
      step: optimizer updates applied.
      items: trees of arrays, by names of ITEMS.
      position: JSON: where data and metrics stand.
      quality: a figure of which less is better, if one was measured now.

    Raises:
      KdError: an earlier save failed, or this one could not begin.
    """
    # What was not measured ranks last: Orbax warns at each save without one.
    metrics = {digests.METRIC: math.inf if quality is None else quality}
    args = ocp.args.Composite(
      **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
      position=ocp.args.JsonSave(dict(position)),
    )
    self._guard(
      step, lambda: self._manager.save(step, args=args, metrics=metrics)
    )

  def set_quality(self, step: int, quality: float) -> None:
    """Gives a checkpoint the figure that its save did not have yet."""
    # Where Orbax writes and reads it; digests leave this file out.
    path = os.path.join(self.folder, str(step), digests.FIGURE)
    figure = json.dumps({digests.METRIC: quality})
    processes.from_first(lambda: atomic_files.write_text(path, figure))
    self._manager.reload()

  def check_whole(self, step: int, items: Sequence[str], path: str) -> None:
    """Raises ConfigError, naming the file, if items are damaged.

    Args:
      step: which checkpoint.
      items: of ITEMS.
      path: the config path that names the checkpoint, for the message.
    """
    folder = os.path.join(self.folder, str(step))
    wrong = digests.problem(folder, items)
    if wrong:
      raise errors.ConfigError(
        path,
        f'checkpoint {folder} is damaged: {wrong}',
        legal='the files as they were written; the command that trained the '
        'run resumes from the checkpoint before',
      )

  def check(self, step: int) -> None:
    """Raises KdError if a save in the background has failed."""
    self._guard(step, self._manager.check_for_errors)

  def wait(self, step: int) -> None:
    """Waits until every save is whole; raises KdError if one failed."""
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
    """Returns the paths of an item's arrays, as leaf_path writes them.

    Args:
      step: which checkpoint.
      name: of ITEMS.

    Returns:
      The paths; none if the checkpoint has no such item.
    """
    item = self._manager.directory / str(step) / name
    return set(_shapes(_metadata(item))) if item.exists() else set()

  def restore(
    self, step: int, like: Mapping[str, types.PyTree]
  ) -> tuple[dict[str, types.PyTree], Any]:
    """Reads items of a checkpoint into the shapes and shardings of `like`.

    Args:
      step: which one.
      like: by item, a tree of arrays or jax.ShapeDtypeStruct with shardings.

    Returns:
      The items and the position.

    Raises:
      ConfigError: the checkpoint lacks a leaf, has one too many, or one of
        another shape.
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
    """Raises ConfigError, naming each leaf that differs from `like`'s."""
    # The manager would read the metadata of all items, damaged ones too.
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
  """Returns a leaf's path; a NamedTuple's field and a dict's key are alike."""
  return jax.tree_util.keystr(keys, simple=True, separator='/')


def _metadata(item):
  return ocp.StandardCheckpointHandler().metadata(item)


def _shapes(tree):
  """Returns shapes by path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {leaf_path(keys): tuple(leaf.shape) for keys, leaf in leaves}
