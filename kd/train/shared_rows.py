"""Prepares the same rows in all processes."""

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
    what: names the rows in messages.
    prepare_rows: prepare_lib.prepare with all arguments but `refresh`.
    refresh: whether to prepare existing rows again.

  Returns:
    The rows of each task.

  Raises:
    ConfigError: this process has other rows than process 0; or what
      `prepare_rows` raises.
  """
  prepared = processes.first_then_all(
    what, lambda: _prepare_once(prepare_rows, refresh)
  )
  first = processes.from_first(lambda: _digest(prepared))
  if refresh and _digest(prepared) != first:
    # The folder of this process is another one, with rows of its own.
    prepared = prepare_rows(refresh=True)
  if _digest(prepared) != first:
    raise errors.ConfigError(
      'data.folder',
      f'{what}: process {jax.process_index()} has rows {_digest(prepared)}, '
      f'process 0 has {first}',
      legal='a folder that all processes see, or the same data for each',
    )
  return prepared


def _prepare_once(prepare_rows, refresh):
  """Prepares rows again in process 0; the others reuse its rows."""
  if not refresh or jax.process_index() == 0:
    return prepare_rows(refresh=refresh)
  try:
    return prepare_rows(refresh=False)
  except errors.ConfigError:
    # Damaged rows in a folder of its own; other errors are raised again.
    return prepare_rows(refresh=True)


def _digest(prepared):
  return identity.digest(
    [task_rows.counts['rows_sha256'] for task_rows in prepared]
  )
