"""The shape of a config: fields in sections, and the check of a config.

A field is declared once, in kd/config/fields, with its default, its legal
values and what it means. The defaults (base.py), the check, the command line
and docs/config.md are all made from these declarations.
"""

from collections.abc import Iterator, Mapping
import copy
import dataclasses
import re
from typing import Any

import ml_collections

from kd.config import legal as legal_lib
from kd.core import errors
from kd.core import schedules


class _Required:
  """Marks an argument without a default."""

  def __repr__(self):
    return 'required'


REQUIRED = _Required()
_ENTRY_NAME = r'[\w-]{1,64}'


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
  """One value of a config.

  Attributes:
    default: its default, or REQUIRED.
    legal: its legal values.
    doc: what it means, with its unit.
  """

  default: Any
  legal: legal_lib.Legal
  doc: str


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
    kind: what its name is a name of, as messages say it.
    options: by name, the fields of that option.
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

  def children(self, name: str) -> Mapping[str, 'Node']:
    """Returns the fields of an option; those in common of an unknown one."""
    # A config may hold anything as a name.
    own = self.options.get(name, {}) if isinstance(name, str) else {}
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


def check(root: Section, config: Any) -> None:
  """Refuses a config that has a field too many or too few, or an illegal one.

  Rules between fields are in kd/config/rules.py; this looks at each alone, but
  for a schedule, whose values depend on `steps`.

  Raises:
    ConfigError: names the first such field.
  """
  if not is_part(config):
    raise errors.ConfigError(
      'config', f'found {legal_lib.shown(config)}', legal='a ConfigDict'
    )
  _check(root, config, '')
  for path, legal, value in _schedules(root, config, ''):
    _check_schedule(legal, value, path, config['steps'])


def check_node(node: Node, value: Any, path: str) -> None:
  """Checks a part of a config alone; schedules' values aside."""
  _check(node, value, path)


def _check(node, value, path):
  if isinstance(node, Field):
    _check_field(node, value, path)
    return
  if not is_part(value):
    raise errors.ConfigError(
      path,
      f'found {legal_lib.shown(value)} of type {type(value).__name__}',
      legal=_fields_of(node),
    )
  keys = list(value)
  for key in keys:
    if not isinstance(key, str):
      raise errors.ConfigError(
        path or 'config', f'found the key {key!r}', legal='names that are text'
      )
  if isinstance(node, Entries):
    _check_entries(node, value, path)
    return
  if isinstance(node, Choice):
    children = _chosen(node, value, path)
    value = {key: value[key] for key in children}
  else:
    children = node.children
  _check_children(children, value, path)


def _fields_of(node):
  if isinstance(node, Entries):
    return 'a dict of entries by name'
  if isinstance(node, Choice):
    return f'a dict with the name of a {node.kind} and its arguments'
  return f'a dict of {", ".join(node.children)}'


def join(path: str, key: str) -> str:
  """Returns the path of a field in the part at `path`."""
  return f'{path}.{key}' if path else key


def _check_children(children, value, path):
  for key in value:
    if key not in children:
      raise errors.unknown(join(path, key), 'field', key, list(children))
  for key, child in children.items():
    if key not in value:
      raise errors.ConfigError(
        join(path, key), 'missing', legal=_text_of(child)
      )
    _check(child, value[key], join(path, key))


def _text_of(node):
  return node.legal.text if isinstance(node, Field) else _fields_of(node)


def _chosen(node, value, path):
  """The fields of the option that a part names."""
  if 'name' not in value:
    raise errors.ConfigError(
      f'{path}.name',
      'missing',
      legal=', '.join(sorted(node.options)),
    )
  name = value['name']
  if not isinstance(name, str) or name not in node.options:
    legal = sorted(node.options)
    raise errors.ConfigError(
      f'{path}.name',
      f'unknown {node.kind} {legal_lib.shown(name)}',
      legal=', '.join(legal),
      nearest=errors.nearest(name, legal) if isinstance(name, str) else '',
    )
  children = node.children(name)
  for key in value:
    if key not in children and key != 'name':
      raise errors.unknown(
        f'{path}.{key}', f'argument of {name}', key, list(children)
      )
  for key in children:
    if key not in value:
      raise errors.ConfigError(f'{path}.{key}', f'missing: {name} needs it')
  return children


def _check_entries(node, value, path):
  if len(value) < node.least:
    raise errors.ConfigError(
      path, f'found {len(value)} entries', legal=f'{node.least} or more'
    )
  for key, entry in value.items():
    if not re.fullmatch(_ENTRY_NAME, key):
      raise errors.ConfigError(
        f'{path}.{key}',
        f'found the name {legal_lib.shown(key)}',
        legal='up to 64 letters, digits, _ and -',
      )
    _check(node.entry, entry, f'{path}.{key}')


def _check_field(field, value, path):
  if is_part(value) and isinstance(field.legal, legal_lib.Scheduled):
    _check(SCHEDULES, value, path)
    return
  fault = field.legal.fault(value)
  if not fault:
    return
  names = [name for name in getattr(field.legal, 'names', ()) if name]
  raise errors.ConfigError(
    path,
    fault,
    legal=field.legal.text,
    nearest=errors.nearest(str(value).partition(':')[0], names),
  )


def _schedules(node, value, path):
  """Yields (path, legal values, schedule or number) of scheduled fields."""
  for field, at, found in leaves(node, value, path):
    if isinstance(field.legal, legal_lib.Scheduled):
      yield at, field.legal, found


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


def _check_schedule(legal, value, path, steps):
  schedule = build_schedule(value, path, steps)
  lowest, highest = schedules.extremes(schedule, steps)
  for bad in (lowest, highest):
    if not legal.number.holds(bad):
      raise errors.ConfigError(path, f'found {bad:g}', legal=legal.text)
  if legal.ever_positive and not highest > 0:
    raise errors.ConfigError(path, 'found 0 throughout', legal=legal.text)


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
