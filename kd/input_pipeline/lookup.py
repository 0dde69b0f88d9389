"""Looks up the tasks of a config and reads an example of each."""

from collections.abc import Sequence
import sys

import ml_collections

from kd.core import errors
from kd.core import quiet
from kd.input_pipeline import examples
from kd.input_pipeline import mixtures
from kd.input_pipeline import routing
from kd.input_pipeline import skipping


def check(
  config: ml_collections.ConfigDict,
  rationale: Sequence[str],
  routes: Sequence[routing.Route] = (),
) -> str:
  """Rejects a module, mixture or split that does not exist, and missing data.

  Args:
    config: config of the run.
    rationale: fields that require a task with rationales.
    routes: the examples of each teacher; () if each takes all.

  Returns:
    A line that summarizes the result.

  Raises:
    ConfigError: something does not exist; names the field.
  """
  data = config.data
  trained = mixtures.training(config)
  if trained.module:
    _check_registers(trained)
  tasks = _tasks(trained, data.split)
  routing.check_tasks(routes, [task.name for task, _ in tasks])
  first = _first_examples(tasks, data, data.split, trained.module)
  check_held_out(config)
  _check_rationale(first, tasks, data, rationale)
  names = ', '.join(task.name for task, _ in tasks)
  sets = len(config.evaluation.sets)
  where = f'{data.module} registers {names}' if trained.module else names
  return f'data: {where}; {sets} held-out sets exist'


def check_held_out(config: ml_collections.ConfigDict) -> None:
  """Rejects held-out sets that do not exist.

  Sets without a mixture of their own are skipped if data.mixture is empty.

  Args:
    config: config of the run.

  Raises:
    ConfigError: a set does not exist; names the field.
  """
  for name, entry in sorted(config.evaluation.sets.items()):
    path = f'evaluation.sets.{name}'
    if not entry.examples and not entry.answers:
      continue
    if not entry.mixture and not config.data.mixture:
      continue
    mixture = mixtures.held_out(config, name)
    try:
      held_out = _tasks(mixture, entry.split)
    except errors.ConfigError as e:
      field = e.path.removeprefix('data.')
      if e.path not in ('data.mixture', 'data.split'):
        raise
      raise e.at(f'{path}.{field}') from e
    _first_examples(held_out, config.data, entry.split, mixture.module)


def _tasks(mixture, split):
  return _imported(lambda: examples.tasks(mixture, split), mixture.module)


def _imported(call, module):
  """Calls a function that imports a module and returns its result."""
  try:
    return call()
  except (errors.KdError, MemoryError):
    raise
  except Exception as e:  # The user's module may raise anything.
    raise errors.ConfigError(
      'data.module',
      f'{module!r} cannot be imported: {type(e).__name__}: {e}',
    ) from e


def _check_registers(mixture):
  """Rejects a module that registers no tasks or mixtures.

  A module that was imported earlier is accepted if anything is registered.
  """
  with quiet.imports():
    import seqio

  def registered():
    return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}

  module = mixture.module
  before, known = registered(), module in sys.modules
  _imported(lambda: examples.register(mixture), module)
  if not registered() or (not known and registered() == before):
    raise errors.ConfigError(
      'data.module',
      f'{module!r} registers no task',
      legal="a module that registers seqio tasks, such as 'kd.data.mixtures'",
    )


def _first_examples(tasks, data, split, module):
  """Returns the first example of each task whose data is local.

  This reports missing data and malformed first lines early.
  """
  import seqio

  found = []
  for task, _ in tasks:
    if isinstance(task.source, seqio.FunctionDataSource):
      skipped = skipping.collector(data.on_error)
      found += examples.stream(
        *(task, split, module, 1, lambda line: None, skipped),
        urls=data.images.urls,
      )
  return found


def _check_rationale(examples_, tasks, data, fields):
  """Rejects fields that require rationales if no task has any."""
  if not fields or len(examples_) < len(tasks):
    return
  if not any(example.get('rationale') for example in examples_):
    raise errors.ConfigError(
      fields[0],
      f"found 'rationale', but {mixtures.shown(data.mixture)!r} has no "
      'rationales',
      legal='all, answer, or a task with a rationale feature',
    )
