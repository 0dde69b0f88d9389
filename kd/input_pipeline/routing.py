"""Routes examples to teachers, by task or by a field."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools

import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import prepared as prepared_lib


@dataclasses.dataclass(frozen=True)
class Route:
  """The examples that a teacher takes.

  Attributes:
    path: config path of the teacher, for messages.
    weight: weight in the mixture of the teachers that take an example.
    tasks: names of tasks; () for all.
    values: values of the field that routes examples; () for all examples,
      including those without the field.
  """

  path: str
  weight: float
  tasks: tuple[str, ...] = ()
  values: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """Returns the teacher's name in metrics."""
    return self.path.rpartition('.')[2]

  def takes(self, task: str, value: str) -> bool:
    """Returns whether the teacher takes an example.

    Args:
      task: task of the example.
      value: value of the example's field; '' without the field.
    """
    return (not self.tasks or task in self.tasks) and (
      not self.values or value in self.values
    )


def weights(
  routes: Sequence[Route], task: str, value: str
) -> np.ndarray | None:
  """Returns the teachers' weights for an example.

  Returns:
    float32 [n] with sum 1, or None if no teacher takes the example.
  """
  each = np.array([r.weight * r.takes(task, value) for r in routes])
  total = each.sum()
  return (each / total).astype(np.float32) if total > 0 else None


def check_tasks(routes: Sequence[Route], tasks: Sequence[str]) -> None:
  """Raises ConfigError unless each task has a teacher and vice versa.

  Args:
    routes: routes of the teachers; () if all take all examples.
    tasks: names of the tasks of the training mixture.

  Raises:
    ConfigError: a task has no teacher, or a teacher no task; names it.
  """
  for route in routes:
    if route.tasks and not set(route.tasks) & set(tasks):
      raise errors.ConfigError(
        f'{route.path}.tasks',
        f'found {", ".join(route.tasks)}, and the mixture has no such task',
        legal=', '.join(tasks),
        nearest=errors.nearest(route.tasks[0], tasks),
      )
  for task in tasks if routes else ():
    _refuse_unless(any(not r.tasks or task in r.tasks for r in routes), task)


def _refuse_unless(is_taken, task, of_value='', named='tasks'):
  if not is_taken:
    raise errors.ConfigError(
      f'teacher.{named}',
      f'no teacher takes the examples of task {task!r}{of_value}',
      legal='(), or a teacher for each of them',
    )


class Router:
  """Adds the teachers' weights at each position to batches."""

  def __init__(
    self,
    prepared: Sequence[prepared_lib.Prepared],
    routes: Sequence[Route],
    field: str,
  ):
    """Computes the teachers' weights for the values of each task.

    Args:
      prepared: the rows of each task.
      routes: routes of the teachers.
      field: field that routes examples; '' to route only by task.

    Raises:
      ConfigError: no teacher takes an example; names its task and value.
    """
    self._first = [task_rows.first_row_id for task_rows in prepared]
    self._tasks = [_Task(task_rows, routes, field) for task_rows in prepared]
    self._teachers = len(routes)

  def __call__(self, batch: types.Batch) -> types.Batch:
    """Returns a batch with its teachers' weights; see types.Batch.

    Args:
      batch: numpy arrays of rows of these tasks, with examples in the same
        order as on disk.
    """
    shape = (*batch.tokens.shape, self._teachers)
    of_positions = np.zeros(shape, np.float32)
    for i, row_id in enumerate(batch.row_id):
      if row_id >= 0:  # Not a row of padding.
        number = int(np.searchsorted(self._first, row_id, 'right')) - 1
        table = self._tasks[number].of_row(int(row_id) - self._first[number])
        # Padding (segment 0) has no targets, so it may use any weights.
        segments = np.maximum(batch.segment_ids[i], 1) - 1
        of_positions[i] = table[np.minimum(segments, len(table) - 1)]
    return batch.replace(teacher_weights=of_positions)


class _Task:
  """The teachers' weights of a task's examples."""

  def __init__(self, task_rows, routes, field):
    self._shards, self._values = task_rows.counts['shards'], ['']
    self._has_field = bool(field)
    if field:
      every = itertools.chain.from_iterable(
        s['field']['values'] for s in self._shards
      )
      self._values = sorted(set(every))
    self._table = np.stack(
      [_weights_of(routes, task_rows.task, v, field) for v in self._values]
    )

  @functools.cached_property
  def _by_row(self):
    # Lazy, since some routers are only built to report errors.
    return _by_row(self._shards, self._values)

  def of_row(self, number: int) -> np.ndarray:
    """Returns the weights of a row's examples, float32 [examples, n]."""
    if not self._has_field:
      return self._table
    values, ends = self._by_row
    begin = ends[number - 1] if number else 0
    return self._table[values[begin : ends[number]]]


def _weights_of(routes, task, value, field):
  found = weights(routes, task, value)
  of_value = ''
  if field:
    of_value = (
      f' whose {field} is {value!r}' if value else f' without {field!r}'
    )
  named = 'field_values' if field else 'tasks'
  _refuse_unless(found is not None, task, of_value, named)
  return found


def _by_row(
  shards: Sequence[Mapping], values: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the value index of each example by row, and the end of each row."""
  place = {value: i for i, value in enumerate(values)}
  kind = np.min_scalar_type(len(values))
  parts, sizes = [], []
  for shard in shards:
    own = np.array([place[v] for v in shard['field']['values']], kind)
    rows = shard['field']['rows']
    sizes += map(len, rows)
    parts.append(own[list(itertools.chain.from_iterable(rows))])
  return np.concatenate(parts), np.cumsum(sizes)
