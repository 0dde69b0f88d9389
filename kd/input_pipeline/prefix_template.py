"""Text in front of an example, with the fields of its row in it."""

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
  """Returns the columns that a template names, in their order.

  Args:
    template: as Python's str.format has it, without conversions.

  Raises:
    ConfigError: it is no such template.
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
  """Returns the text for a row.

  Args:
    template: with columns of the row.
    row: its values; what is no text is written as JSON.
    where: names the row, for messages.

  Raises:
    ConfigError: the row lacks a column.
  """
  values = {}
  for name in columns(template):
    value = row.get(name)
    if value is None:
      raise errors.ConfigError(
        where,
        f'has no {name}, which {FIELD} names',
        legal=', '.join(map(str, row)),
        nearest=errors.nearest(name, [str(key) for key in row]),
      )
    if isinstance(value, bytes):
      value = value.decode('utf-8', 'replace')
    is_text = isinstance(value, str)
    values[name] = value if is_text else json.dumps(value, default=str)
  return template.format_map(values)
