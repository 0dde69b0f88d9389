"""Records why a run ended before its last step, for later inspection."""

from collections.abc import Iterator
import contextlib
import os

import jax

from kd.core import atomic_files
from kd.core import errors
from kd.core import run_info

FILE = 'exit.json'


@contextlib.contextmanager
def recorded(workdir: str) -> Iterator[None]:
  """Writes exit.json if the block raises; removes one of an earlier start.

  It contains the exit code, the message and the date. A killed process writes
  nothing. Use it once the run has begun, so that a refused command does not
  overwrite the record of an earlier run.

  Args:
    workdir: the run's folder, which exists and is locked.
  """
  path = os.path.join(workdir, FILE)
  is_first = jax.process_index() == 0
  if is_first:
    with contextlib.suppress(OSError):
      os.unlink(path)
  try:
    yield
  except BaseException as e:
    if is_first:
      # The disk or bucket may have failed, and must not hide the first error.
      with contextlib.suppress(OSError, errors.KdError):
        atomic_files.write_json(path, _describe(e))
    raise


def _describe(error):
  code = error.exit_code if isinstance(error, errors.KdError) else 1
  name = '' if isinstance(error, errors.KdError) else type(error).__name__
  message = ': '.join(filter(None, [name, str(error)]))
  return {'code': code, 'error': message, 'date': run_info.now()}
