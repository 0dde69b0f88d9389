"""Formats prefixes of examples with the columns of their rows."""

from collections.abc import Mapping
import functools
import json
import string
from typing import Any

from kd.core import errors

FIELD = 'teacher.prefix'

_LEGAL = '{column}, and literal braces doubled: {{ and }}'


@functools.cache
def columns(template: str) -> tuple[str, ...]:
  """Returns the columns in a template, in order.

  Args:
    template: a template of Python's str.format, without conversions.

  Raises:
    ConfigError: the template is invalid.
  """
  try:
    fields = [x[1:] for x in string.Formatter().parse(template)]
  except ValueError as e:
    raise errors.ConfigError(FIELD, f'{e}', legal=_LEGAL) from e
  names = []
  for name, spec, conversion in fields:
    if name is None:
      continue
    if not name.isidentifier() or spec or conversion:
      raise errors.ConfigError(FIELD, f'has the field {{{name}}}', legal=_LEGAL)
    names.append(name)
  return tuple(dict.fromkeys(names))


def render(template: str, row: Mapping[str, Any], where: str) -> str:
  """Fills in a template for a row.

  Args:
    template: a template with columns of the row.
    row: the values of the row; values other than text are written as JSON.
    where: name of the row, for messages.

  Raises:
    ConfigError: the row lacks a column.
  """
  values = {}
  for name in columns(template):
    value = row.get(name)
    if value is None:
      filled = [str(key) for key, x in row.items() if x is not None]
      raise errors.ConfigError(
        where,
        f'has no value in column {name}, which {FIELD} uses',
        legal=', '.join(filled),
        nearest=errors.nearest(name, filled),
      )
    if isinstance(value, bytes):
      value = value.decode('utf-8', 'replace')
    is_text = isinstance(value, str)
    values[name] = value if is_text else json.dumps(value, default=str)
  return template.format_map(values)
