"""Silences what imports print and no user can act on."""

from collections.abc import Iterator
import contextlib
import os
import sys


@contextlib.contextmanager
def imports() -> Iterator[None]:
  """Within it, what libraries print to standard error is dropped.

  TensorFlow writes lines on CUDA and oneDNN there while it is imported, from
  C++ and before any setting of its log level counts. Python's own exceptions
  pass as ever.
  """
  sys.stderr.flush()
  kept = os.dup(2)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    sys.stderr.flush()
    os.dup2(kept, 2)
    os.close(kept)
    os.close(nowhere)
