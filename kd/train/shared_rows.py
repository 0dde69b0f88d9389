"""Prepares the same rows in all processes."""

from collections.abc import Callable
import functools

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
  """Prepares rows in process 0 first; the other processes reuse them.

  If there are several shards of rows to prepare, all processes prepare them.

  Args:
    what: name of the rows in messages.
    prepare_rows: prepare_lib.prepare with all arguments but `refresh` and
      `on_large`.
    refresh: whether to prepare existing rows again.

  Returns:
    The rows of each task.

  Raises:
    ConfigError: this process has other rows than process 0, or an error of
      `prepare_rows`.
  """
  if refresh:
    prepared = processes.first_then_all(
      what, lambda: _prepare_once(prepare_rows)
    )
  else:
    prepared = _prepare_together(what, prepare_rows)
  first = processes.from_first(lambda: _digest(prepared))
  if refresh and _digest(prepared) != first:
    # This process has another folder, whose existing rows differ.
    prepared = prepare_rows(refresh=True)
  if _digest(prepared) != first:
    raise errors.ConfigError(
      'data.folder',
      f'{what}: process {jax.process_index()} has rows {_digest(prepared)}, '
      f'process 0 has {first}',
      legal='a folder that all processes see, or the same data for each',
    )
  return prepared


def _prepare_together(what, prepare_rows):
  """Prepares rows; other processes start when they can reuse them or help."""
  others_begin = functools.cache(lambda: processes.from_first(lambda: None))
  if jax.process_index() > 0:
    others_begin()
  with processes.waited_for(what):
    prepared = prepare_rows(refresh=False, on_large=others_begin)
  others_begin()
  return prepared


def _prepare_once(prepare_rows):
  """Prepares rows again in process 0; the others reuse its rows."""
  if jax.process_index() == 0:
    return prepare_rows(refresh=True)
  try:
    return prepare_rows(refresh=False)
  except errors.ConfigError:
    # The process may have its own folder with damaged rows. Any other error is
    # raised again.
    return prepare_rows(refresh=True)


def _digest(prepared):
  return identity.digest(
    [task_rows.counts['rows_sha256'] for task_rows in prepared]
  )
