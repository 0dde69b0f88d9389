"""The schema of a config: fields in sections.

A field is declared once, in kd/config/fields, with its default, legal values
and meaning. The defaults (base.py), the check, the command line and
docs/config.md are all derived from these declarations.
"""

from collections.abc import Iterator, Mapping
import copy
import dataclasses
from typing import Any

import ml_collections

from kd.config import field
from kd.config import legal as legal_lib
from kd.config import registered
from kd.core import schedules

Field = field.Field
REQUIRED = field.REQUIRED


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
  """A section with fields and nested parts.

  Attributes:
    doc: description of the section.
    children: fields and parts by name.
  """

  doc: str
  children: Mapping[str, 'Node']


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """A part with a `name`, which determines its other fields.

  Attributes:
    doc: description of the part.
    kind: what the name stands for, as in messages. Plugins may add to the
      registry of that kind.
    options: fields of each option that comes with kd, by name.
    common: fields of all options.
    default: default name.
    docs: descriptions of the options by name.
  """

  doc: str
  kind: str
  options: Mapping[str, Mapping[str, 'Node']]
  common: Mapping[str, 'Node'] = dataclasses.field(default_factory=dict)
  default: str = ''
  docs: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def names(self) -> list[str]:
    """Returns the names of all options, including those of plugins."""
    return sorted({*self.options, *registered.names(self.kind)})

  def children(self, name: str) -> Mapping[str, 'Node']:
    """Returns the fields of an option, or the common ones if it is unknown."""
    if not isinstance(name, str):  # A config may have any value as a name.
      return self.common
    if name not in self.options and name in registered.names(self.kind):
      own = registered.fields(self.kind, name)
    else:
      own = self.options.get(name, {})
    return {**self.common, **own}


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
  """Parts with the same schema, under names that the user chooses.

  Attributes:
    doc: description of the parts.
    entry: schema of each part.
    default: default parts by name.
    least: minimum number of parts.
  """

  doc: str
  entry: 'Section | Choice'
  default: Mapping[str, Any]
  least: int = 0


Node = Field | Section | Choice | Entries


def choice_of(node: Node) -> Choice | None:
  """Returns the choice that a node is or, as a schedule, may be, or None."""
  if isinstance(node, Field):
    scheduled = isinstance(node.legal, legal_lib.Scheduled)
    return SCHEDULES if scheduled else None
  return node if isinstance(node, Choice) else None


def is_part(value: Any) -> bool:
  """Returns whether a value of a config has fields itself."""
  return isinstance(value, Mapping | ml_collections.ConfigDict)


def part(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Creates a ConfigDict that accepts values of any type.

  Types are checked later by `check`, whose errors contain the field's path.
  """
  return ml_collections.ConfigDict(dict(fields), type_safe=False)


def defaults(node: Node) -> Any:
  """Returns the defaults of a part of the schema."""
  if isinstance(node, Field):
    return node.default
  if isinstance(node, Entries):
    return part(copy.deepcopy(dict(node.default)))
  if isinstance(node, Choice):
    return option(node, node.default)
  return part({k: defaults(v) for k, v in node.children.items()})


def option(choice: Choice, name: str, **changes: Any):
  """Returns an option with its defaults and the given changes."""
  fields = {
    key: defaults(node)
    for key, node in choice.children(name).items()
    if not (isinstance(node, Field) and node.default is REQUIRED)
  }
  return part({'name': name, **fields, **changes})


def completed(node: Node, value: Any) -> Any:
  """Updates a recorded config to the names and fields of this version.

  The default of a new field preserves the behavior of earlier versions, so the
  meaning of the config does not change.

  Args:
    node: schema of `value`.
    value: JSON values, which need not be legal.
  """
  if isinstance(node, Field):
    return _renamed(node.legal, value)
  if not is_part(value):
    return value
  result = dict(value)
  if isinstance(node, Choice) and 'name' not in result:
    return result
  for key, child in children_of(node, value).items():
    formerly = child.formerly if isinstance(child, Field) else ''
    if formerly and formerly in result:
      result[key] = result.pop(formerly)
    if key in result:
      result[key] = completed(child, result[key])
    elif not (isinstance(child, Field) and child.default is REQUIRED):
      result[key] = defaults(child)
  return result


def _renamed(legal, value):
  """Returns the current name for a value that may be a former name."""
  kinds = legal_lib.OneOf | legal_lib.Matching
  named = isinstance(legal, kinds) and isinstance(value, str)
  return legal.formerly.get(value, value) if named else value


def join(path: str, key: str) -> str:
  """Returns the path of the field `key` in the part at `path`."""
  return f'{path}.{key}' if path else key


def leaves(
  node: Node, value: Any, path: str = ''
) -> Iterator[tuple[Field, str, Any]]:
  """Yields (field, path, value) of each field; a schedule is one value."""
  if isinstance(node, Field):
    yield node, path, value
    return
  for key, child in children_of(node, value).items():
    yield from leaves(child, value[key], join(path, key))


def children_of(node: Section | Choice | Entries, value: Any):
  """Returns the schemas of a legal part's fields by key."""
  if isinstance(node, Entries):
    return dict.fromkeys(value, node.entry)
  if isinstance(node, Choice):
    return node.children(value['name'])
  return node.children


def build_schedule(value: Any, path: str, steps: int) -> schedules.Schedule:
  """Builds a schedule from a field's value."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  return schedules.build(value, path, steps)


def normalized(root: Node, config: Any) -> ml_collections.ConfigDict:
  """Returns a copy of a legal config with normalized values.

  For example, integers become floats where a float belongs, and lists tuples.
  """
  if isinstance(root, Field):
    if is_part(config):
      return normalized(SCHEDULES, config)
    return root.legal.normal(config)
  children = children_of(root, config)
  return part(
    {
      key: normalized(children[key], value) if key in children else value
      for key, value in config.items()
    }
  )


def _schedule_choice():
  number = legal_lib.Number()
  peak = Field(REQUIRED, number, 'value at the end of the warm-up')
  warmup = Field(
    REQUIRED, legal_lib.COUNT, 'updates over which it rises from 0 to `peak`'
  )
  final = Field(REQUIRED, number, 'value at the last update')
  ramp = {
    'begin': Field(REQUIRED, number, 'value up to `first_step`'),
    'end': Field(REQUIRED, number, 'value from `last_step` on'),
    'first_step': Field(REQUIRED, legal_lib.COUNT, 'update'),
    'last_step': Field(
      REQUIRED, legal_lib.POSITIVE, 'update, after `first_step`'
    ),
  }
  return Choice(
    doc='A number that depends on the update.',
    kind='schedule',
    options={
      'warmup_cosine': dict(peak=peak, warmup_steps=warmup, final=final),
      'warmup_linear': dict(peak=peak, warmup_steps=warmup, final=final),
      'constant': dict(peak=peak, warmup_steps=warmup),
      'inverse_sqrt': dict(peak=peak, warmup_steps=warmup),
      'linear': ramp,
      'cosine': ramp,
    },
    docs={
      'warmup_cosine': 'warm-up, then half a cosine from `peak` to `final`',
      'warmup_linear': 'warm-up, then a straight line from `peak` to `final`',
      'constant': 'warm-up, then `peak`',
      'inverse_sqrt': 'warm-up, then `peak` x sqrt(warmup_steps / update)',
      'linear': 'a straight line from `begin` to `end`',
      'cosine': 'half a cosine from `begin` to `end`',
    },
  )


SCHEDULES = _schedule_choice()
