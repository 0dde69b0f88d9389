"""What to do with checkpoints that are not what was written."""

import json
import os

from kd.checkpoints import digests
from kd.core import errors

ASIDE = 'damaged-checkpoints'


def repair(folder: str) -> list[str]:
  """Puts damaged checkpoints aside until the latest one is good.

  Of those before it, only what must be readable to list them is looked at.

  Args:
    folder: the checkpoints of a workdir; it need not exist.

  Returns:
    A line for the user for each checkpoint that was put aside.

  Raises:
    ConfigError: there were checkpoints, and none of them is good.
  """
  steps = _steps(folder)
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


def _steps(folder):
  """Steps of the checkpoints, the latest first."""
  if not os.path.isdir(folder):
    return []
  return sorted(int(n) for n in os.listdir(folder) if n.isdigit())[::-1]


def _list_problem(where):
  """What keeps a checkpoint from being listed."""
  name = digests.FIGURE
  try:
    digests.figure(where)  # Without one a checkpoint ranks last.
    name = digests.TIMES
    with open(os.path.join(where, name), encoding='utf-8') as f:
      if not isinstance(json.load(f), dict):
        return f'{name} holds no JSON object'
  except FileNotFoundError:
    return ''
  except (OSError, ValueError, RecursionError) as e:
    return f'{name} cannot be read: {e}'
  return ''


def _put_aside(folder, step):
  aside = os.path.join(os.path.dirname(folder), ASIDE)
  os.makedirs(aside, exist_ok=True)
  number = 0
  while os.path.exists(path := os.path.join(aside, f'{step}.{number}')):
    number += 1
  os.rename(os.path.join(folder, str(step)), path)
  return path
