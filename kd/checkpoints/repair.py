"""What to do with checkpoints that are not what was written."""

import json
import os

from etils import epath

from kd.checkpoints import digests
from kd.checkpoints import steps as steps_lib
from kd.core import errors
from kd.core import layout
from kd.core import objects


def repair(folder: str) -> list[str]:
  """Puts damaged checkpoints aside until the latest one is good.

  Of those before it, only what must be readable to list them is looked at.

  Args:
    folder: the checkpoints of a workdir; it need not exist.

  Returns:
    A line for the user for each checkpoint that was put aside.

  Raises:
    ConfigError: there were checkpoints, and none of them is good.
    OSError: the store of their bucket refuses or does not answer.
  """
  steps = steps_lib.of(folder)[::-1]
  wrong, good = {}, False
  for step in steps:
    where = os.path.join(folder, str(step))
    found = _list_problem(where) or ('' if good else digests.problem(where))
    good = good or not found
    if found:
      wrong[step] = found
  damaged = [f'checkpoint {k} is damaged: {v}' for k, v in wrong.items()]
  if steps and not good:
    # Left where they are: an empty folder would mean a new beginning.
    raise errors.ConfigError(
      folder,
      'no checkpoint is good:\n  ' + '\n  '.join(damaged),
      legal='a new --workdir, or this one once it is deleted, to begin anew',
    )
  return [
    f'{line}; now in {_put_aside(folder, step)}'
    for step, line in zip(wrong, damaged, strict=True)
  ]


def _list_problem(where):
  """What keeps a checkpoint from being listed."""
  name = digests.FIGURE
  try:
    digests.figure(where)  # Without one a checkpoint ranks last.
    name = digests.TIMES
    if not isinstance(json.loads(epath.Path(where, name).read_text()), dict):
      return f'{name} holds no JSON object'
  except FileNotFoundError:
    return ''
  except (OSError, ValueError, RecursionError) as e:
    if isinstance(e, OSError) and objects.is_url(where):
      raise  # The store has a fault, not the checkpoint.
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
  # First what makes it a checkpoint, in case that this is killed.
  objects.remove([f'{old}/{layout.COMMIT}'])
  objects.remove_folder(old)
