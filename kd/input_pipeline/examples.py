"""The texts of seqio tasks, read once and checked."""

from collections.abc import Callable
from typing import Any

from kd.core import errors
from kd.core import quiet
from kd.input_pipeline import fingerprints

# What is taken of an example; `inputs` and `targets` must be there.
_FIELDS = ('id', 'inputs', 'targets', 'rationale')
_SHOWN = 40  # Characters of a text in an error.

EVERY = 5000  # Examples between two lines of progress.


def tasks(name: str, split: str, module: str) -> list[tuple[Any, float]]:
  """The seqio tasks of a task's or mixture's name, with their rates.

  Args:
    name: a seqio task or mixture that `module` registers.
    split: a split that each of them has.
    module: the Python module to import.

  Returns:
    (seqio.Task, rate) pairs; the rate of a task alone is 1.

  Raises:
    ConfigError: an unknown name or split, or no such module.
  """
  with quiet.imports():
    import seqio  # Brings TensorFlow along: 5 s and 880 MB.

  fingerprints.import_module(module)
  names = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name not in names:
    raise errors.unknown('data.mixture', 'task or mixture', name, names)
  found = seqio.get_mixture_or_task(name)
  if isinstance(found, seqio.Mixture):
    pairs = [(task, float(found.get_rate(task))) for task in found.tasks]
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


def read(
  task: Any, split: str, limit: int, say: Callable[[str], None]
) -> list[dict[str, str]]:
  """Runs a task.

  Args:
    task: a seqio.Task.
    split: one of its splits.
    limit: reads the first so many examples; -1 for all.
    say: called with lines of progress.

  Returns:
    By example, in the source's order: `id` (the task's name and a number where
    the task gives none), `inputs`, `targets`, and `rationale`, the beginning of
    the targets that is the rationale ('' where the task gives none).

  Raises:
    ConfigError: the split is empty, a feature is missing or no text, or a
      rationale is not the beginning of its targets.
  """
  dataset = task.get_dataset(split=split, shuffle=False)
  if limit > 0:
    dataset = dataset.take(limit)
  found = []
  for i, example in enumerate(dataset.as_numpy_iterator()):
    row = {'id': f'{task.name}-{i}', 'rationale': ''} | {
      field: _text(task.name, field, example[field])
      for field in _FIELDS
      if field in example
    }
    _check(task.name, row)
    found.append(row)
    if len(found) % EVERY == 0:
      say(f'{task.name}: {len(found)} examples read')
  if not found:
    raise errors.ConfigError(
      'data.mixture',
      f'split {split!r} of task {task.name!r} is empty',
      legal='a split with examples',
    )
  return found


def _text(task: str, field: str, value: Any) -> str:
  if not isinstance(value, bytes):
    raise errors.ConfigError(
      'data.mixture',
      f'feature {field!r} of task {task!r} is {type(value).__name__}',
      legal='text (a scalar string feature)',
    )
  return value.decode('utf-8')


def _check(task: str, row: dict[str, str]) -> None:
  """Raises ConfigError unless the rationale is the targets' beginning."""
  for field in ('inputs', 'targets'):
    if field not in row:
      raise errors.ConfigError(
        'data.mixture',
        f'example {row["id"]!r} of task {task!r} has no feature {field!r}',
        legal='inputs and targets, and where wanted id and rationale',
      )
  rationale, targets = row['rationale'], row['targets']
  if not targets.startswith(rationale):
    raise errors.ConfigError(
      'data.mixture',
      f'the rationale of example {row["id"]!r} of task {task!r}, '
      f'{_shown(rationale)}, does not begin its targets, {_shown(targets)}',
      legal="the first characters of `targets`, unchanged, or ''",
    )


def _shown(text: str) -> str:
  return repr(text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...')
