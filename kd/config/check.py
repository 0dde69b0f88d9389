"""Checks a config against its schema and names the first illegal field."""

from collections.abc import Collection, Mapping
import re
from typing import Any

from kd.config import legal as legal_lib
from kd.config import schema
from kd.core import errors
from kd.core import schedules

_ENTRY_NAME = r'[\w-]{1,64}'


def check(root: schema.Section, config: Any) -> None:
  """Refuses a config with unknown, missing or illegal fields.

  Each field is checked separately, except that the values of a schedule depend
  on `steps`. Rules between fields are in kd/config/rules.py.

  Raises:
    ConfigError: a field is unknown, missing or illegal; names the first one.
  """
  if not schema.is_part(config):
    raise errors.ConfigError(
      'config', f'found {legal_lib.shown(config)}', legal='a ConfigDict'
    )
  _check(root, config, '')
  for path, legal, value in _schedules(root, config, ''):
    _check_schedule(legal, value, path, config['steps'])


def check_node(node: schema.Node, value: Any, path: str) -> None:
  """Checks a part of a config, but not the values of its schedules."""
  _check(node, value, path)


_NAMES = 'names that are text'


def _check(node, value, path):
  if isinstance(node, schema.Field):
    _check_field(node, value, path)
    return
  if not schema.is_part(value):
    raise errors.ConfigError(
      path,
      f'found {legal_lib.shown(value)} of type {type(value).__name__}',
      legal=_fields_of(node),
    )
  try:
    keys = list(value)
  except TypeError as e:  # ConfigDict cannot sort strings and numbers.
    raise errors.ConfigError(
      path or 'config', 'found keys of several types', legal=_NAMES
    ) from e
  for key in keys:
    if not isinstance(key, str):
      raise errors.ConfigError(
        path or 'config', f'found the key {key!r}', legal=_NAMES
      )
  if isinstance(node, schema.Entries):
    _check_entries(node, value, path)
    return
  if isinstance(node, schema.Choice):
    children = _chosen(node, value, path)
    value = {key: value[key] for key in children}
  else:
    children = node.children
  _check_children(children, value, path)


def _fields_of(node):
  if isinstance(node, schema.Entries):
    return 'a dict of entries by name'
  if isinstance(node, schema.Choice):
    return f'a dict with the name of a {node.kind} and its arguments'
  return f'a dict of {", ".join(node.children)}'


def unknown_field(
  path: str, kind: str, name: str, fields: Mapping[str, schema.Node]
) -> errors.ConfigError:
  """Returns the error for an unknown or former name of a field.

  Args:
    path: config path of the name.
    kind: what the name stands for, as in the message.
    name: the unknown name.
    fields: the existing fields by name.
  """
  return errors.unknown(path, kind, name, list(fields), renamed(name, fields))


def renamed(name: str, fields: Mapping[str, schema.Node]) -> str:
  """Returns the current name of a field formerly called `name`, or ''."""
  for key, node in fields.items():
    if isinstance(node, schema.Field) and node.formerly == name:
      return key
  return ''


def renamed_among(
  name: str, siblings: Collection[str], root: schema.Node
) -> str:
  """Returns the current name of a renamed field of some part, or ''.

  Args:
    name: the former name.
    siblings: names of the part's fields.
    root: the schema of the config; the part may be anywhere in it.
  """
  if isinstance(root, schema.Field):
    return ''
  if isinstance(root, schema.Entries):
    groups = [{'': root.entry}]
  elif isinstance(root, schema.Choice):
    groups = [root.children(option) for option in root.options]
  else:
    groups = [root.children]
  for fields in groups:
    new = renamed(name, fields)
    if new in siblings:
      return new
    for child in fields.values():
      new = renamed_among(name, siblings, child)
      if new:
        return new
  return ''


def _check_children(children, value, path):
  for key in value:
    if key not in children:
      raise unknown_field(schema.join(path, key), 'field', key, children)
  for key, child in children.items():
    if key not in value:
      raise errors.ConfigError(
        schema.join(path, key), 'missing', legal=_text_of(child)
      )
    _check(child, value[key], schema.join(path, key))


def _text_of(node):
  return node.legal.text if isinstance(node, schema.Field) else _fields_of(node)


def _chosen(node, value, path):
  """Returns the fields of the option that a part selects."""
  if 'name' not in value:
    raise errors.ConfigError(
      f'{path}.name',
      'missing',
      legal=', '.join(node.names()),
    )
  name = value['name']
  if not isinstance(name, str) or name not in node.names():
    legal = node.names()
    raise errors.ConfigError(
      f'{path}.name',
      f'unknown {node.kind} {legal_lib.shown(name)}',
      legal=', '.join(legal),
      nearest=errors.nearest(name, legal) if isinstance(name, str) else '',
    )
  children = node.children(name)
  for key in value:
    if key not in children and key != 'name':
      raise unknown_field(f'{path}.{key}', f'argument of {name}', key, children)
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
  if schema.is_part(value) and isinstance(field.legal, legal_lib.Scheduled):
    _check(schema.SCHEDULES, value, path)
    return
  fault = field.legal.fault(value)
  if not fault:
    return
  raise errors.ConfigError(
    path, fault, legal=field.legal.text, nearest=field.legal.nearest(value)
  )


def _schedules(node, value, path):
  """Yields (path, legal values, schedule or number) of scheduled fields."""
  for field, at, found in schema.leaves(node, value, path):
    if isinstance(field.legal, legal_lib.Scheduled):
      yield at, field.legal, found


def _check_schedule(legal, value, path, steps):
  schedule = schema.build_schedule(value, path, steps)
  lowest, highest = schedules.extremes(schedule, steps)
  for bad in (lowest, highest):
    if not legal.number.holds(bad):
      raise errors.ConfigError(path, f'found {bad:g}', legal=legal.text)
  if legal.ever_positive and not highest > 0:
    raise errors.ConfigError(path, 'found 0 throughout', legal=legal.text)
