"""Lists the checkpoints of a folder."""

import os

from kd.core import layout
from kd.core import objects


def of(folder: str) -> list[int]:
  """Returns the steps of the checkpoints that are whole, rising.

  Args:
    folder: of the checkpoints, or its URL; it need not exist.
  """
  if objects.is_url(folder):
    # In a bucket what is being written has its final name, too.
    names = [name.split('/') for name in objects.names(folder)]
    found = [x[0] for x in names if x[1:] == [layout.COMMIT]]
  elif os.path.isdir(folder):
    found = os.listdir(folder)
  else:
    return []
  return sorted(int(name) for name in found if name.isdecimal())
