"""Describes a config's data: seqio tasks and files, with rates."""

import dataclasses
from typing import Any

from kd.core import errors
from kd.data_files import examples as file_examples
from kd.data_files import locations
from kd.data_files import source as source_lib

FIELD = 'data.mixture'
_LONGEST_NAME = 60  # characters; it is part of a folder's name


@dataclasses.dataclass(frozen=True)
class Component:
  """A component of a mixture: a seqio task or mixture, or files.

  Attributes:
    task: name in seqio's registry; that of the new task in case of files.
    source: the files; None for a task or mixture of seqio.
    rate: share of the mixture, before normalization.
  """

  task: str
  source: source_lib.Source | None
  rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Mixture:
  """The sources of examples.

  Attributes:
    components: the components in the config's order.
    module: Python module that registers the tasks; '' if all are files.
    urls: whether images that the module's examples name by URL are downloaded.
    field: feature of examples, or column of files, whose values are recorded
      with the rows; '' for none.
  """

  components: tuple[Component, ...]
  module: str
  urls: bool = False
  field: str = ''

  @property
  def name(self) -> str:
    """Returns a name for messages and folders."""
    return '+'.join(c.task for c in self.components)[:_LONGEST_NAME]

  @property
  def request(self) -> dict[str, Any]:
    """Returns the settings that rows depend on, for a manifest."""
    request = {
      'name': self.name,
      'module': self.module,
      'parts': [
        [c.task, c.source and c.source.identity, c.rate]
        for c in self.components
      ],
    }
    if self.urls and self.module:
      request['urls'] = True
    # Left out if empty, so that rows keep the names from earlier versions.
    return request | {'field': self.field} if self.field else request


def task(name: str, module: str) -> Mixture:
  """Returns a mixture of one seqio task or mixture that a module registers."""
  return Mixture((Component(name, None),), module)


def training(config: Any) -> Mixture:
  """Returns the training data of a run.

  Raises:
    ConfigError: all rates are 0, or a folder of data is damaged.
  """
  pairs = entries(config.data.mixture)
  held_out = _evaluated(config)
  return _mixture(config, FIELD, pairs, held_out)


def held_out(config: Any, name: str) -> Mixture:
  """Returns the data of one of evaluation.sets.

  Files that the run also trains on are divided by data.held_out; other files
  are used completely.

  Raises:
    ConfigError: all rates are 0, or the files have no held-out examples.
  """
  field = f'evaluation.sets.{name}.mixture'
  own = config.evaluation.sets[name].mixture
  trained = {name for name, _ in entries(config.data.mixture)}
  pairs = entries(own or config.data.mixture)
  if not config.data.held_out:
    for location, _ in pairs:
      # Splits that a folder declares, and seqio's, are already separate.
      split = config.evaluation.sets[name].split
      if (
        location in trained
        and locations.is_location(location)
        and not _has_split(location, split)
      ):
        raise errors.ConfigError(
          'data.held_out',
          f'found 0, and evaluation.sets.{name} reads {location!r}, which is '
          'trained on',
          legal='more than 0, another mixture for that set, or '
          'evaluation.sets={}',
        )
  return _mixture(config, field if own else FIELD, pairs, trained)


def _evaluated(config) -> set[str]:
  """Returns the sources of held-out sets, except folders' own splits."""
  read = set()
  for entry in config.evaluation.sets.values():
    if entry.examples or entry.answers:
      mixture = entry.mixture or config.data.mixture
      read |= {
        name
        for name, _ in entries(mixture)
        if not _has_split(name, entry.split)
      }
  return read


def _has_split(name: str, split: str) -> bool:
  """Returns whether a name is that of a folder that declares a split."""
  return locations.is_location(name) and split in locations.splits(name)


def entries(mixture: Any) -> list[tuple[str, float]]:
  """Returns the names and locations in a field's value with their rates."""
  if isinstance(mixture, str):
    return [(mixture, 1.0)]
  return [
    (entry, 1.0) if isinstance(entry, str) else (entry[0], float(entry[1]))
    for entry in mixture
  ]


def shown(mixture: Any) -> str:
  """Formats a field's value as readable text."""
  return ', '.join(
    name if rate == 1 else f'{name} (rate {rate:g})'
    for name, rate in entries(mixture)
  )


def _mixture(config, field, pairs, divided) -> Mixture:
  data = config.data
  columns = file_examples.Columns(**data.columns)
  components, names = [], set()
  for text, rate in pairs:
    if not locations.is_location(text):
      components.append(Component(text, None, rate))
      continue
    share = float(data.held_out) if text in divided else 0.0
    source = source_lib.Source(
      *(text, columns, share, field, data.images.urls),
      recorded=config.teacher.field,
    )
    components.append(
      Component(_unused(locations.task_name(text), names), source, rate)
    )
  if not any(c.rate for c in components):
    raise errors.ConfigError(
      field, 'has the rate 0 for all', legal='a rate above 0 for at least one'
    )
  only_files = all(c.source for c in components)
  module = '' if only_files else data.module
  return Mixture(
    tuple(components), module, data.images.urls, config.teacher.field
  )


def _unused(name, names):
  number = 2
  unused = name
  while unused in names:
    unused = f'{name}.{number}'
    number += 1
  names.add(unused)
  return unused
