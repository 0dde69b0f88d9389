"""The texts of seqio tasks, read once and checked."""

from collections.abc import Callable, Iterator
import contextlib
import math
from typing import Any

from kd.core import errors
from kd.core import quiet
from kd.input_pipeline import opened_files
from kd.input_pipeline import retry
from kd.input_pipeline import task_code
from kd.input_pipeline import user_errors

# The features that are read; `inputs` and `targets` must be there.
_FIELDS = ('id', 'inputs', 'targets', 'rationale')
_SHOWN = 40  # Characters of a text in an error.

EVERY = 5000  # Examples between two lines of progress.


def tasks(name: str, split: str, module: str) -> list[tuple[Any, float]]:
  """Returns the seqio tasks of a task's or mixture's name, with their rates.

  Args:
    name: a seqio task or mixture that `module` registers.
    split: a split that each of them has.
    module: the Python module to import.

  Returns:
    (seqio.Task, rate) pairs; the rate of a task alone is 1.

  Raises:
    ConfigError: an unknown name or split, no such module, or one that cannot
      be imported; a rate is negative or not finite, or all are 0.
  """
  with quiet.imports():
    import seqio  # Brings TensorFlow along: 5 s and 880 MB.

  with opened_files.watched(module):
    task_code.import_module(module)
  names = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name not in names:
    raise errors.unknown('data.mixture', 'task or mixture', name, names)
  found = seqio.get_mixture_or_task(name)
  if isinstance(found, seqio.Mixture):
    pairs = [(task, _rate(found, task)) for task in found.tasks]
    if not any(rate for _, rate in pairs):
      raise errors.ConfigError(
        'data.mixture',
        f'mixture {name!r} has the rate 0 for each of its tasks',
        legal='a rate above 0 for at least one task',
      )
  else:
    pairs = [(found, 1.0)]
  for task, _ in pairs:
    if split not in task.splits:
      raise errors.ConfigError(
        'data.split',
        f'task {task.name!r} has no split {split!r}',
        legal=', '.join(task.splits),
        nearest=errors.nearest(split, task.splits),
      )
  return pairs


def _rate(mixture: Any, task: Any) -> float:
  """Returns a task's rate in a mixture, checked."""
  what = f'rate of task {task.name!r} in mixture {mixture.name!r}'
  try:
    rate = float(mixture.get_rate(task))
  except Exception as e:  # A rate may be a function of the user's.
    raise user_errors.refuse(e, 'data.mixture', what) from e
  if not 0 <= rate < math.inf:  # NaN is not either.
    raise errors.ConfigError(
      'data.mixture', f'{what} is {rate:g}', legal='a finite number, 0 or more'
    )
  return rate


def read(
  task: Any, split: str, module: str, limit: int, say: Callable[[str], None]
) -> list[dict[str, str]]:
  """Reads the examples of a task.

  Args:
    task: a seqio.Task.
    split: one of its splits.
    module: the module that registers it.
    limit: number of examples to read, from the first; -1 for all.
    say: called with lines of progress.

  Returns:
    By example, in the source's order: `id` (the task's name and a number where
    the task gives none), `inputs`, `targets`, and `rationale`, the beginning of
    the targets that is the rationale ('' where the task gives none).

  Raises:
    ConfigError: the split is empty, the task's code fails, a feature is missing
      or no text in UTF-8, or a rationale is not the beginning of its targets.
    Exception: the disk or the network fails (`retry.is_transient`).
  """
  where = f'task {task.name!r}, split {split!r}'
  rows = []
  with opened_files.watched(module), _users_errors(where, rows):
    dataset = task.get_dataset(split=split, shuffle=False)
    if limit > 0:
      dataset = dataset.take(limit)
    for i, example in enumerate(dataset.as_numpy_iterator()):
      rows.append(_row(example, f'{task.name}-{i}', where))
      if len(rows) % EVERY == 0:
        say(f'{task.name}: {len(rows)} examples read')
  if not rows:
    raise errors.ConfigError(
      'data.mixture', f'{where}: is empty', legal='a split with examples'
    )
  return rows


@contextlib.contextmanager
def _users_errors(where: str, rows: list[Any]) -> Iterator[None]:
  """Raises ConfigError for what the task's own code raises."""
  try:
    yield
  except (errors.KdError, MemoryError):
    raise
  except Exception as e:  # The user's code may raise anything.
    if retry.is_transient(e):
      raise
    if rows:
      where += f', behind example {rows[-1]["id"]!r}'
    raise user_errors.refuse(e, 'data.mixture', where) from e


def _row(example: dict[str, Any], name: str, where: str) -> dict[str, str]:
  """Returns an example's texts, checked."""
  if 'id' in example:
    name = _text(example['id'], f"{where}, example {name!r}: feature 'id'")
  where += f', example {name!r}'
  row = {'id': name, 'rationale': ''}
  for field in _FIELDS[1:]:
    if field in example:
      row[field] = _text(example[field], f'{where}: feature {field!r}')
  _check(row, where)
  return row


def _text(value: Any, where: str) -> str:
  if not isinstance(value, bytes):
    shape = getattr(value, 'shape', ())
    kind = f'an array of shape {list(shape)}' if shape else type(value).__name__
    raise errors.ConfigError(
      'data.mixture',
      f'{where} is {kind}',
      legal='text (a scalar string feature)',
    )
  try:
    return value.decode('utf-8')
  except UnicodeDecodeError as e:
    raise errors.ConfigError(
      'data.mixture',
      f'{where} is {_shown(value)}, which is not UTF-8 ({e.reason} at byte '
      f'{e.start})',
      legal='text in UTF-8',
    ) from e


def _check(row: dict[str, str], where: str) -> None:
  """Raises ConfigError unless the rationale is the targets' beginning."""
  for field in ('inputs', 'targets'):
    if field not in row:
      raise errors.ConfigError(
        'data.mixture',
        f'{where} has no feature {field!r}',
        legal='inputs and targets; id and rationale are optional',
      )
  rationale, targets = row['rationale'], row['targets']
  if not targets.startswith(rationale):
    raise errors.ConfigError(
      'data.mixture',
      f'{where}: the targets, {_shown(targets)}, do not begin with the '
      f'rationale, {_shown(rationale)}',
      legal="the first characters of `targets`, unchanged, or ''",
    )


def _shown(text: str | bytes) -> str:
  return repr(text[:_SHOWN]) + ('...' if len(text) > _SHOWN else '')
