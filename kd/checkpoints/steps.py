"""Lists the checkpoints of a folder."""

import os

from kd.core import layout
from kd.core import objects


def of(folder: str) -> list[int]:
  """Returns the steps of complete checkpoints, ascending.

  Args:
    folder: path or URL of the checkpoints' folder; need not exist.
  """
  if objects.is_url(folder):
    # In a bucket, incomplete checkpoints already have their final name.
    names = [name.split('/') for name in objects.names(folder)]
    steps = [x[0] for x in names if x[1:] == [layout.COMMIT]]
  elif os.path.isdir(folder):
    steps = os.listdir(folder)
  else:
    return []
  return sorted(int(name) for name in steps if name.isdecimal())
