"""Applies changes from the command line to a config."""

from collections.abc import Iterator, Sequence
import dataclasses

import ml_collections

from kd.config import base
from kd.config import check
from kd.config import legal as legal_lib
from kd.config import schema
from kd.core import errors
from kd.core import plugins

_NAME = 'name'


@dataclasses.dataclass(frozen=True)
class Override:
  """A change of one field.

  Attributes:
    path: path of the field.
    text: the new value, as typed.
    argument: the whole command-line argument, for messages.
  """

  path: str
  text: str
  argument: str


def is_boolean(path: str) -> bool:
  """Returns whether a path may name a boolean field."""
  return any(
    isinstance(node, schema.Field) and isinstance(node.legal, legal_lib.Boolean)
    for node in _possible(base.ROOT, path.split('.'))
  )


def _possible(node, keys) -> Iterator[schema.Node]:
  """Yields all nodes of the schema that a path may refer to."""
  if not keys:
    yield node
  elif isinstance(node, schema.Entries):
    yield from _possible(node.entry, keys[1:])
  elif isinstance(node, schema.Section):
    if keys[0] in node.children:
      yield from _possible(node.children[keys[0]], keys[1:])
  elif isinstance(node, schema.Choice):
    for name in node.names():
      if keys[0] in node.children(name):
        yield from _possible(node.children(name)[keys[0]], keys[1:])


def apply(
  config: ml_collections.ConfigDict, overrides: Sequence[Override]
) -> ml_collections.ConfigDict:
  """Changes fields of a config and resolves its references.

  Args:
    config: the result of get_config, which is modified.
    overrides: changes in any order: plugins are loaded first, and names are
      changed before other fields.

  Returns:
    The changed config.

  Raises:
    ConfigError: the config has no such field, or the value is illegal.
  """
  first = [x for x in overrides if x.path == plugins.PATH]
  names = [x for x in overrides if x.path.split('.')[-1] == _NAME]
  others = [x for x in overrides if x not in (*first, *names)]
  names.sort(key=lambda x: x.path.count('.'))
  with config.unlocked():
    for override in first:
      _set(config, override)
    base.load_plugins(config)
    for override in (*names, *others):
      _set(config, override)
  return config.copy_and_resolve_references()


def _set(config, override):
  """Applies one change."""
  keys = override.path.split('.')
  node, holder = base.ROOT, config
  for depth, key in enumerate(keys[:-1]):
    node = _child(node, holder, key, keys[:depth], override)
    choice = schema.choice_of(node)
    if choice and keys[depth + 1 :] == [_NAME]:
      _put(holder, key, _renamed(choice, holder[key], override), override)
      return
    holder = holder[key]
  node = _child(node, holder, keys[-1], keys[:-1], override)
  _put(holder, keys[-1], _parsed(node, override), override)


def _put(holder, key, value, override):
  """Sets a field, which may refuse the value if it has a type."""
  try:
    holder[key] = value
  except TypeError as e:
    raise errors.ConfigError(override.path, f'{override.argument}: {e}') from e


def _child(node, value, key, parents, override):
  """Returns the schema of a field, which must be in the config."""
  if not schema.is_part(value) or not (
    key in value or _lacks(node, value, key)
  ):
    parent = '.'.join(parents) or 'the config'
    legal = list(value) if schema.is_part(value) else []
    raise errors.ConfigError(
      override.path,
      f'no field {key!r} in {parent} ({override.argument})',
      legal=', '.join(map(str, legal)) or f'{parent} is a value',
      nearest=check.renamed(key, _children(node, value))
      or errors.nearest(key, map(str, legal)),
    )
  if isinstance(node, schema.Entries):
    return node.entry
  children = _children(node, value)
  if key not in children:
    raise check.unknown_field(override.path, 'field', key, children)
  return children[key]


def _children(node, value):
  """Returns the schemas of a part's fields by name."""
  choice = schema.choice_of(node)
  if choice:
    has_name = schema.is_part(value) and _NAME in value
    return choice.children(value[_NAME] if has_name else '')
  return node.children if isinstance(node, schema.Section) else {}


def _lacks(node, value, key):
  """Returns whether a field that a part does not have yet is legal in it."""
  choice = schema.choice_of(node)
  if not choice or _NAME not in value:
    return False
  return key in choice.children(value[_NAME])


def _parsed(node, override):
  """Parses the value of a change."""
  if isinstance(node, schema.Entries) and override.text == '{}':
    return schema.part({})
  if not isinstance(node, schema.Field):
    raise errors.ConfigError(
      override.path,
      f'found {override.text!r}: it is a section, not a value '
      f'({override.argument})',
      legal='one of its fields, such as '
      f'--config.{override.path}.{_first_field(node)}=VALUE',
    )
  try:
    return node.legal.parse(override.text)
  except ValueError as e:
    raise errors.ConfigError(
      override.path,
      f'found {legal_lib.shown(override.text)} ({override.argument[:120]})',
      legal=node.legal.text,
    ) from e


def _first_field(node):
  if isinstance(node, schema.Section):
    return next(iter(node.children))
  return _NAME if isinstance(node, schema.Choice) else 'NAME'


def _renamed(choice, old, override):
  """Returns the option of the new name, keeping arguments of the old one.

  An argument keeps its value if both options share its Field. For example, all
  divergences share `temperature`, but their `beta`s differ.
  """
  name = override.text
  if name not in choice.names():
    raise errors.unknown(override.path, choice.kind, name, choice.names())
  if not schema.is_part(old):
    old = schema.part({_NAME: ''})
  if _NAME in old and old[_NAME] == name:
    return old
  before = choice.children(old[_NAME] if _NAME in old else '')
  kept = {
    key: old[key]
    for key, node in choice.children(name).items()
    if key in old and before.get(key) is node
  }
  return schema.option(choice, name, **kept)
