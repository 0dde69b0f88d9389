"""Silences output of imports that users cannot act on."""

from collections.abc import Iterator
import contextlib
import os
import sys


@contextlib.contextmanager
def imports() -> Iterator[None]:
  """Drops everything that the block writes to standard error.

  While it is imported, TensorFlow's C++ code writes lines about CUDA and oneDNN
  there before any log level takes effect. Exceptions propagate as usual.
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
