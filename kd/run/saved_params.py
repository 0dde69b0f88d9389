"""Reads the saved parameters of a run onto the mesh."""

from etils import epath
import jax

from kd.checkpoints import manager
from kd.checkpoints import tensor_checks
from kd.core import errors
from kd.core import types
from kd.optimizers import parameter_groups
from kd.partitioning import processes
from kd.run import resolved


def abstract(model: resolved.Model) -> types.PyTree:
  """Returns the shapes and shardings of the model's parameters."""
  shapes = model.module.abstract_params()
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    model.shardings,
  )


def restore(
  workdir: str,
  model: resolved.Model,
  which: str,
  path: str,
  averaged: bool = False,
) -> types.PyTree:
  """Reads the saved parameters of a run.

  Args:
    workdir: the run's folder.
    model: the model that the run saved; keep_layers is ignored.
    which: 'last' or 'best'.
    path: the config path that names the workdir, for the message.
    averaged: whether to read the averages of the trained parameters.

  Raises:
    ConfigError: the checkpoint is missing, damaged, or of another model, or its
      parameters are not finite.
  """
  folder = manager.folder_of(workdir)
  if not epath.Path(folder).is_dir():
    raise errors.ConfigError(
      path,
      f'{workdir!r} contains no {manager.FOLDER}',
      legal='the workdir of a run that has saved',
    )
  saved = manager.Manager(workdir, keep=1, read_only=True)
  step = saved.best_step() if which == 'best' else saved.latest_step()
  if step is None:
    raise errors.ConfigError(path, f'{folder!r} contains no {which} checkpoint')
  like = {'params': abstract(model)}
  if averaged:
    like[manager.EMA] = _abstract_average(saved, step, like['params'])
  whole = lambda: saved.check_whole(step, (*like, 'position'), path)
  processes.from_first(whole)
  items, _ = saved.restore(step, {'params': like['params']})
  params = items['params']
  if averaged:
    params = _with_averages(saved, step, params, like[manager.EMA])
  saved.close()
  tensor_checks.check_finite_params(
    params, f'{path}: checkpoint {folder}/{step}'
  )
  return params


def _with_averages(saved, step, params, like):
  """Replaces parameters by their averages where there are any.

  Orbax restores whole trees, so parameters with an average are deleted first.
  """
  is_none = lambda x: x is None
  drop = lambda average, x: None if average is None else x.delete()
  jax.tree.map(drop, like, params, is_leaf=is_none)
  items, _ = saved.restore(step, {manager.EMA: like})
  return parameter_groups.merge(items[manager.EMA], params)


def _abstract_average(saved, step, params):
  """Returns the `params` whose average is in a checkpoint, and else None."""
  averaged = saved.leaves(step, manager.EMA)
  if not averaged:
    raise errors.ConfigError(
      'export.params',
      f"found 'ema', and the checkpoint {saved.folder}/{step} has no average: "
      'its run had ema.decay=0',
      legal="'last'",
    )
  return jax.tree_util.tree_map_with_path(
    lambda keys, x: x if manager.leaf_path(keys) in averaged else None, params
  )
