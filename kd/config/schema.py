"""The schema of a config: fields in sections.

A field is declared once, in kd/config/fields, with its default, its legal
values and what it means. The defaults (base.py), the check, the command line
and docs/config.md are all made from these declarations.
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
  """Fields, and sections within.

  Attributes:
    doc: what it is about.
    children: by name.
  """

  doc: str
  children: Mapping[str, 'Node']


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """A part that has a `name`, which decides what other fields it has.

  Attributes:
    doc: what it is.
    kind: what its name is a name of, as messages say it. A plugin may add to
      the registry of that kind.
    options: by name, the fields of that option, of those that come with kd.
    common: fields that it has whatever its name is.
    default: its default name.
    docs: by name, what the option is.
  """

  doc: str
  kind: str
  options: Mapping[str, Mapping[str, 'Node']]
  common: Mapping[str, 'Node'] = dataclasses.field(default_factory=dict)
  default: str = ''
  docs: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def names(self) -> list[str]:
    """Returns the names of all options, also those that plugins registered."""
    return sorted({*self.options, *registered.names(self.kind)})

  def children(self, name: str) -> Mapping[str, 'Node']:
    """Returns the fields of an option; those in common of an unknown one."""
    if not isinstance(name, str):  # A config may hold anything as a name.
      return self.common
    if name not in self.options and name in registered.names(self.kind):
      own = registered.fields(self.kind, name)
    else:
      own = self.options.get(name, {})
    return {**self.common, **own}


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
  """Parts of one kind, by names that the user chooses.

  Attributes:
    doc: what they are.
    entry: what each of them is.
    default: by name, the entries of the defaults.
    least: how many there must be.
  """

  doc: str
  entry: 'Section | Choice'
  default: Mapping[str, Any]
  least: int = 0


Node = Field | Section | Choice | Entries


def choice_of(node: Node) -> Choice | None:
  """Returns the choice that a part makes by its name, if it makes one."""
  if isinstance(node, Field):
    scheduled = isinstance(node.legal, legal_lib.Scheduled)
    return SCHEDULES if scheduled else None
  return node if isinstance(node, Choice) else None


def is_part(value: Any) -> bool:
  """Returns whether a config's value has fields of its own."""
  return isinstance(value, Mapping | ml_collections.ConfigDict)


def part(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Makes a ConfigDict that takes values of any type.

  What is wrong with a value is said by `check`, which knows the field's path.
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
  """Returns an option with its defaults and these changes."""
  fields = {
    key: defaults(node)
    for key, node in choice.children(name).items()
    if not (isinstance(node, Field) and node.default is REQUIRED)
  }
  return part({'name': name, **fields, **changes})


def completed(node: Node, value: Any) -> Any:
  """Returns a recorded config with the names and fields of this version.

  A new field's default is what was done before there was the field, so a config
  that an earlier version recorded means the same with it.

  Args:
    node: the schema of `value`.
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
  """Returns today's form of a value that names something."""
  kinds = legal_lib.OneOf | legal_lib.Matching
  named = isinstance(legal, kinds) and isinstance(value, str)
  return legal.formerly.get(value, value) if named else value


def join(path: str, key: str) -> str:
  """Returns the path of a field in the part at `path`."""
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
  """Returns what the fields of a legal part are, by key."""
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
  """Returns a copy of a legal config with each value in its one form.

  A whole number where a float belongs becomes a float, a list a tuple.
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
    doc='A number that changes with the updates.',
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
