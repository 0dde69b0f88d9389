"""Looks up the tasks that a config names, and reads an example of each."""

from collections.abc import Sequence
import sys

import ml_collections

from kd.core import errors
from kd.core import quiet
from kd.input_pipeline import examples


def check(config: ml_collections.ConfigDict, rationale: Sequence[str]) -> str:
  """Refuses a module, mixture or split that does not exist, and missing data.

  Args:
    config: the run's.
    rationale: fields that need a task with rationales.

  Returns:
    A line on what was looked up.

  Raises:
    ConfigError: names the field.
  """
  data = config.data
  _check_registers(data.module)
  tasks = _tasks(data.mixture, data.split, data.module)
  first = _first_examples(tasks, data.split, data.module)
  for name, entry in sorted(config.evaluation.sets.items()):
    path = f'evaluation.sets.{name}'
    mixture = entry.mixture or data.mixture
    try:
      held_out = _tasks(mixture, entry.split, data.module)
    except errors.ConfigError as e:
      field = e.path.removeprefix('data.')
      if e.path not in ('data.mixture', 'data.split'):
        raise
      raise e.at(f'{path}.{field}') from e
    _first_examples(held_out, entry.split, data.module)
  _check_rationale(first, tasks, data, rationale)
  names = ', '.join(task.name for task, _ in tasks)
  sets = len(config.evaluation.sets)
  return f'data: {data.module} registers {names}; {sets} held-out sets exist'


def _tasks(mixture, split, module):
  try:
    return examples.tasks(mixture, split, module)
  except (errors.KdError, MemoryError):
    raise
  except Exception as e:  # The user's module may raise anything.
    raise errors.ConfigError(
      'data.module', f'{module!r} cannot be imported: {type(e).__name__}: {e}'
    ) from e


def _check_registers(module):
  """Refuses a module that registers nothing.

  One that some other module has imported before is given the benefit of the
  doubt, if anything is registered.
  """
  with quiet.imports():
    import seqio

  def registered():
    return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}

  before, known = registered(), module in sys.modules
  try:
    _tasks('', '', module)
  except errors.ConfigError as e:
    if e.path != 'data.mixture':
      raise
  if not registered() or (not known and registered() == before):
    raise errors.ConfigError(
      'data.module',
      f'{module!r} registers no task',
      legal="a module that registers seqio tasks, such as 'data.mixtures'",
    )


def _first_examples(tasks, split, module):
  """Returns the first example of each task whose data is local.

  So that data that is missing or wrong from its first line on is known now.
  """
  import seqio

  found = []
  for task, _ in tasks:
    if isinstance(task.source, seqio.FunctionDataSource):
      found += examples.read(
        task, split, module, limit=1, say=lambda line: None
      )
  return found


def _check_rationale(examples_, tasks, data, fields):
  """Refuses terms of rationales if no task has any."""
  if not fields or len(examples_) < len(tasks):
    return
  if not any(example['rationale'] for example in examples_):
    raise errors.ConfigError(
      fields[0],
      f"found 'rationale', and {data.mixture!r} gives none",
      legal='all, answer, or a task with a rationale feature',
    )
