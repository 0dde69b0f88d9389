"""Prepared rows of all processes: the same ones."""

from collections.abc import Callable

import jax

from kd.core import errors
from kd.core import identity
from kd.input_pipeline import prepare as prepare_lib
from kd.partitioning import processes


def prepare(
  what: str,
  prepare_rows: Callable[..., list[prepare_lib.Prepared]],
  refresh: bool,
) -> list[prepare_lib.Prepared]:
  """Prepares rows in process 0 first, which the others may reuse.

  Args:
    what: is prepared, as messages name it.
    prepare_rows: as input_pipeline.prepare.prepare, with `refresh` to be given.
    refresh: whether to prepare again what is there.

  Returns:
    The rows of each task.

  Raises:
    ConfigError: this process has other rows than process 0; or what
      `prepare_rows` raises.
  """
  is_first = jax.process_index() == 0
  parts = processes.first_then_all(
    what, lambda: prepare_rows(refresh=refresh and is_first)
  )
  first = processes.from_first(lambda: _digest(parts))
  if refresh and _digest(parts) != first:
    # The folder of this process is another one, with rows of its own.
    parts = prepare_rows(refresh=True)
  if _digest(parts) != first:
    raise errors.ConfigError(
      'data.folder',
      f'{what}: process {jax.process_index()} has rows {_digest(parts)}, '
      f'process 0 has {first}',
      legal='a folder that all processes see, or the same data for each',
    )
  return parts


def _digest(parts):
  return identity.digest([part.counts['rows_sha256'] for part in parts])
