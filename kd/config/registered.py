"""Fields of registered parts, from the signatures of their builders.

Each keyword-only argument of a builder becomes a field with the argument's
default. Its type is float, int, bool or str. Legal values and a meaning may be
added: `typing.Annotated[float, legal.Number(above=0), 'what it means']`.
"""

from collections.abc import Mapping
import functools
import inspect
import typing
from typing import Any

from kd.config import field
from kd.config import legal as legal_lib
from kd.core import errors
from kd.core import registry

_OF_TYPES = {
  float: legal_lib.Number(),
  int: legal_lib.Integer(-legal_lib.INT32),
  bool: legal_lib.BOOLEAN,
  str: legal_lib.TEXT,
}


def names(kind: str) -> list[str]:
  """Returns the names that are registered for a kind of part."""
  known = registry.of(kind)
  return known.names() if known else []


def fields(kind: str, name: str) -> Mapping[str, field.Field]:
  """Returns the fields of a registered part.

  Raises:
    ConfigError: the type of an argument is not supported for fields.
  """
  return _fields(registry.of(kind)[name], kind, name)


@functools.cache
def _fields(builder: Any, kind: str, name: str):
  """Returns the fields of a builder, always as the same object."""
  del builder
  arguments = registry.of(kind).arguments(name)
  return {key: _field(kind, name, p) for key, p in arguments.items()}


def _field(kind, name, parameter):
  annotation = parameter.annotation
  if isinstance(annotation, field.Field):
    return annotation
  more = getattr(annotation, '__metadata__', ())
  base = typing.get_args(annotation)[0] if more else annotation
  declared = [x for x in more if isinstance(x, legal_lib.Legal)]
  if not declared and base not in _OF_TYPES:
    raise errors.ConfigError(
      'plugins',
      f'{kind} {name!r}: argument {parameter.name!r} has no type that a config '
      'supports',
      legal='float, int, bool, str, or typing.Annotated of one with its legal '
      'values',
    )
  legal = declared[0] if declared else _OF_TYPES[base]
  doc = next((x for x in more if isinstance(x, str)), '')
  default = parameter.default
  if default is inspect.Parameter.empty:
    default = field.REQUIRED
  return field.Field(default, legal, doc)
