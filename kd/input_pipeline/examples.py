"""Reads and checks the examples of seqio tasks."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import itertools
import math
import os
from typing import Any

from kd.core import errors
from kd.core import quiet
from kd.core import user_errors
from kd.data_files import chats
from kd.data_files import json_rows
from kd.images import loading
from kd.input_pipeline import file_tasks
from kd.input_pipeline import mixtures
from kd.input_pipeline import opened_files
from kd.input_pipeline import prefix_template
from kd.input_pipeline import retry
from kd.input_pipeline import skipping
from kd.input_pipeline import task_code
from kd.input_pipeline import text_tasks

_PAIR = ('inputs', 'targets', 'rationale')
_LEGAL = (
  'inputs and targets (id and rationale are optional), messages (JSON), or text'
)
_SHOWN = 40  # Characters of a text in an error.

Example = dict[str, Any]

EVERY = 5000  # Number of examples between lines of progress.


def tasks(mixture: mixtures.Mixture, split: str) -> list[tuple[Any, float]]:
  """Returns the seqio tasks of a mixture with their rates.

  Args:
    mixture: seqio tasks and mixtures, and files, which become tasks.
    split: a split of each of them.

  Returns:
    (seqio.Task, rate) pairs; the rate of a single task is 1.

  Raises:
    ConfigError: a name or split is unknown, the module does not exist or cannot
      be imported, a rate is negative or not finite, or all rates are 0.
  """
  register(mixture)
  pairs = []
  for component in mixture.components:
    of_component = _tasks(component, split)
    # The rate of a nested mixture is divided among its tasks.
    several = len(mixture.components) > 1
    whole = sum(rate for _, rate in of_component) if several else 1
    pairs += [
      (task, component.rate * rate / whole) for task, rate in of_component
    ]
  twice = [task.name for task, _ in pairs]
  twice = sorted({name for name in twice if twice.count(name) > 1})
  if twice:
    raise errors.ConfigError(
      'data.mixture', f'has {", ".join(twice)} twice', legal='each task once'
    )
  return pairs


def register(mixture: mixtures.Mixture) -> None:
  """Registers the tasks of a mixture with seqio.

  Raises:
    ConfigError: the module does not exist or cannot be imported, or two tasks
      have the same name.
  """
  with quiet.imports():
    import seqio  # noqa: F401, imports TensorFlow: 5 s and 880 MB.

  if mixture.module:
    with opened_files.watched(mixture.module):
      task_code.import_module(mixture.module)
  for component in mixture.components:
    if component.source is not None:
      file_tasks.register(component.task, component.source)


def _tasks(
  component: mixtures.Component, split: str
) -> list[tuple[Any, float]]:
  """Returns the tasks of a component with their rates in it."""
  import seqio

  name = component.task
  names = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name not in names:
    near = f'./{name}' if os.path.exists(name) else ''
    raise errors.unknown('data.mixture', 'task or mixture', name, names, near)
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
  """Returns the checked rate of a task in a mixture."""
  what = f'rate of task {task.name!r} in mixture {mixture.name!r}'
  try:
    rate = float(mixture.get_rate(task))
  except Exception as e:  # A rate may be a user's function.
    raise user_errors.refuse(e, 'data.mixture', what) from e
  if not 0 <= rate < math.inf:  # Also catches NaN.
    raise errors.ConfigError(
      'data.mixture', f'{what} is {rate:g}', legal='a finite number, 0 or more'
    )
  return rate


def stream(
  task: Any,
  split: str,
  module: str,
  limit: int,
  say: Callable[[str], None],
  bad: skipping.Skipped | None = None,
  urls: bool = False,
  opened: loading.Opened = lambda name, data: None,
  prefix: str = '',
  field: str = '',
) -> Iterator[Example]:
  """Reads the examples of a task one at a time.

  Args:
    task: a seqio.Task.
    split: one of its splits.
    module: the module that registers the task.
    limit: number of examples to read, from the first; -1 for all.
    say: called with lines of progress.
    bad: called with the error of each invalid example, which is skipped and not
      counted; None raises the error.
    urls: whether images that the module's examples name by URL are downloaded.
    opened: called with each image that an example names, see loading.Loader.
    prefix: see prefix_template; '' if it names no column.
    field: feature whose text is stored in examples as `field` ('' if missing);
      '' stores none. Tasks of files use their Source.recorded instead.

  Yields:
    Examples in the order of the source. Each has an `id` (by default the task's
    name and a number), and one of
    - `inputs`, `targets` and `rationale`, the beginning of the targets ('' if
      the task has none);
    - `messages`, in the format of chats.check;
    - `text`, a document.
    With `prefix`, each also has `prefix`, the rendered text.

  Raises:
    ConfigError: the split is empty, the task's code fails, a feature is missing
      or not UTF-8 text, or the targets do not start with the rationale.
    Exception: the disk or the network fails (`retry.is_transient`).
  """
  where = f'task {task.name!r}, split {split!r}'
  last: list[str] = []
  count, added = 0, None
  if prefix:
    added = lambda row, at: {'prefix': prefix_template.render(prefix, row, at)}
  with _users_errors(where, last):
    source = file_tasks.source_of(task)
    if source is not None:
      examples = source.read(split, bad or json_rows.refuse, opened, added)
    else:
      loader = _loader(urls, opened)
      of_task = task, split, where, bad or json_rows.refuse, loader
      examples = _of_task(*of_task, added, field)
    if limit > 0:
      examples = itertools.islice(examples, limit)
    if source is None:
      examples = _watched(module, examples)
    for example in examples:
      last[:] = [example['id']]
      count += 1
      yield example
      if count % EVERY == 0:
        say(f'{task.name}: {count} examples read')
  if not count:
    skipped = bad.record() if bad else {}
    more = f' ({skipping.line(skipped)})' if skipped else ''
    raise errors.ConfigError(
      'data.mixture', f'{where}: is empty{more}', legal='a split with examples'
    )


def column(task: Any, split: str, name: str) -> dict[str, str]:
  """Returns a field of a task's examples as text, by example id.

  Args:
    task: a seqio.Task.
    split: one of its splits.
    name: name of a feature, or of a column of the task's files; examples
      without it are left out.
  """
  where = f'task {task.name!r}, split {split!r}'
  with _users_errors(where, []):
    source = file_tasks.source_of(task)
    if source is not None:
      values = source.column(split, name)
      return {key: str(value) for key, value in values.items()}
    texts = {}
    wrong = lambda error: None  # Invalid examples are skipped.
    # Images are not needed, so none are downloaded.
    loader = loading.Loader('', urls=True, deferred=lambda url: None)
    for number, features in enumerate(_features(task, split, wrong, loader)):
      if name in features:
        own = features.get('id', f'{task.name}-{number}'.encode())
        texts[_text(own, where)] = _shown_value(features[name])
    return texts


def _shown_value(value: Any) -> str:
  """Returns a feature of any type as text."""
  is_text = isinstance(value, bytes)
  return value.decode('utf-8', 'replace') if is_text else str(value)


def _watched(module, examples) -> Iterator[Example]:
  """Yields examples and records the files that the module opens for them."""
  with opened_files.watched(module) as notes:
    for example in examples:
      notes.active = False  # Files that the caller opens are not data.
      yield example
      notes.active = True


def _loader(urls, opened) -> loading.Loader:
  """Returns a loader for the images of a module's examples."""

  def noted(name, data):
    opened_files.forget(name)  # Images are recorded per example.
    opened(name, data)

  # Paths are relative to the current folder, as in the task's code.
  start = text_tasks.FROM_CURRENT_FOLDER
  return dataclasses.replace(start, urls=urls, opened=noted)


def _features(task, split, bad, loader) -> Iterator[dict[str, Any]]:
  """Yields the features of each example, as bytes."""
  read = text_tasks.reader_of(task)
  if read is None:
    dataset = task.get_dataset(split=split, shuffle=False)
    yield from dataset.as_numpy_iterator()
    return
  for texts in read(split, bad, loader):
    # Lone surrogates are rejected later, when the bytes are decoded as UTF-8.
    yield {k: x.encode('utf-8', 'surrogatepass') for k, x in texts.items()}


def _of_task(
  task, split, where, bad, loader, added, field
) -> Iterator[Example]:
  """Yields the examples of a task that does not read data files."""
  for i, features in enumerate(_features(task, split, bad, loader)):
    try:
      example = _example(features, f'{task.name}-{i}', where, loader)
      if added is not None:
        example |= added(features, f'{where}, example {example["id"]!r}')
      if field:
        example['field'] = _shown_value(features.get(field, b''))
      yield example
    except errors.ConfigError as e:
      bad(e)


@contextlib.contextmanager
def _users_errors(where: str, last: list[str]) -> Iterator[None]:
  """Turns exceptions of the task's code into ConfigError.

  Args:
    where: the task and its split.
    last: contains the id of the last example that was read, if any.
  """
  try:
    yield
  except (errors.KdError, MemoryError):
    raise
  except Exception as e:  # The user's code may raise anything.
    if retry.is_transient(e):
      raise
    if last:
      where += f', after example {last[0]!r}'
    raise user_errors.refuse(e, 'data.mixture', where) from e


def _example(
  features: dict[str, Any], name: str, where: str, loader: loading.Loader
) -> Example:
  """Returns an example's checked texts."""
  if 'id' in features:
    name = _text(features['id'], f"{where}, example {name!r}: feature 'id'")
  where += f', example {name!r}'

  def text(field):
    return _text(features[field], f'{where}: feature {field!r}')

  if 'messages' in features:
    chat = chats.parse(text('messages'), where, loader)
    chats.check_trained(chat, where)
    return {'id': name, 'messages': chat}
  if 'text' in features:
    return {'id': name, 'text': text('text')}
  pair = {'id': name, 'rationale': ''}
  pair |= {field: text(field) for field in _PAIR if field in features}
  _check(pair, where)
  return pair


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
  """Raises ConfigError unless the targets start with the rationale."""
  for field in ('inputs', 'targets'):
    if field not in row:
      raise errors.ConfigError(
        'data.mixture',
        f'{where} has no feature {field!r}',
        legal=_LEGAL,
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
