"""Moves damaged checkpoints aside."""

import json
import os

from etils import epath

from kd.checkpoints import digests
from kd.checkpoints import steps as steps_lib
from kd.core import errors
from kd.core import layout
from kd.core import objects


def repair(folder: str) -> list[str]:
  """Moves damaged checkpoints aside, so that the latest one is intact.

  In checkpoints before the latest intact one, checks only the files that are
  read when checkpoints are listed.

  Args:
    folder: folder of a workdir's checkpoints; need not exist.

  Returns:
    A line for the user for each checkpoint that was moved.

  Raises:
    ConfigError: there are checkpoints, but none is intact.
    OSError: the bucket cannot be read or written.
  """
  steps = steps_lib.of(folder)[::-1]
  wrong, good = {}, False
  for step in steps:
    where = os.path.join(folder, str(step))
    damage = _list_problem(where) or ('' if good else digests.problem(where))
    good = good or not damage
    if damage:
      wrong[step] = damage
  damaged = [f'checkpoint {k} is damaged: {v}' for k, v in wrong.items()]
  if steps and not good:
    # They are not moved, as a run would start anew with an empty folder.
    raise errors.ConfigError(
      folder,
      'no checkpoint is intact:\n  ' + '\n  '.join(damaged),
      legal='a new --workdir; or delete this folder to start over',
    )
  return [
    f'{line}; now in {_put_aside(folder, step)}'
    for step, line in zip(wrong, damaged, strict=True)
  ]


def _list_problem(where):
  """Returns the problem that prevents listing a checkpoint, or ''."""
  name = digests.FIGURE
  try:
    digests.figure(where)  # Without one a checkpoint ranks last.
    name = digests.TIMES
    if not isinstance(json.loads(epath.Path(where, name).read_text()), dict):
      return f'{name} does not contain a JSON object'
  except FileNotFoundError:
    return ''
  except (OSError, ValueError, RecursionError) as e:
    if isinstance(e, OSError) and objects.is_url(where):
      raise  # A fault of the store, not the checkpoint.
    return f'{name} cannot be read: {e}'
  return ''


def _put_aside(folder, step):
  aside = epath.Path(os.path.dirname(folder), layout.DAMAGED_CHECKPOINTS)
  aside.mkdir(parents=True, exist_ok=True)
  number = 0
  while (path := aside / f'{step}.{number}').exists():
    number += 1
  where = os.path.join(folder, str(step))
  if objects.is_url(folder):
    _move_objects(where, str(path))
  else:
    os.rename(where, path)
  return str(path)


def _move_objects(old, new):
  names = objects.names(old)
  for name in names:
    objects.write(f'{new}/{name}', objects.read(f'{old}/{name}').data)
  # The commit object first: without it, it is no longer a checkpoint even if
  # this process is killed.
  objects.remove([f'{old}/{layout.COMMIT}'])
  objects.remove_folder(old)
