"""Parses conditions on columns with dots and slashes in their names.

  config.optimizer.lr.peak > 1e-4 and eval/held_out/nll < 2

is SQL except for the names, which are replaced by the names of SQL columns. A
name that is neither a column nor an SQL keyword is an error, which suggests the
nearest column.
"""

from collections.abc import Iterator, Mapping
import re

from kd.core import errors

_TOKEN = re.compile(
  r"""
  (?P<comment>--[^\n]*)
  | (?P<text>'(?:[^']|'')*')
  | (?P<quoted>"(?:[^"]|"")*")
  | (?P<name>[^\W\d]\w*(?:[./-]\w+)*)
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<other>.)
  """,
  re.VERBOSE | re.DOTALL,
)
_WORDS = frozenset(
  (
    *('and', 'or', 'not', 'in', 'is', 'null', 'like', 'ilike', 'between'),
    *('true', 'false', 'case', 'when', 'then', 'else', 'end', 'escape'),
    *('similar', 'to', 'glob', 'cast', 'as', 'distinct', 'from'),
    *('double', 'bigint', 'integer', 'varchar', 'boolean'),
  )
)
_LEGAL = 'a condition on columns, such as config.steps > 100 and step < 50'


def to_sql(text: str, columns: Mapping[str, str], field: str) -> str:
  """Translates a condition to SQL.

  Args:
    text: the condition.
    columns: SQL names of the columns by name in the condition.
    field: config field of the condition, for messages.

  Raises:
    ConfigError: a name is not a column, or there is more than one statement.
  """
  return ''.join(_parts(text, columns, field))


def _parts(text, columns, field) -> Iterator[str]:
  for match in _TOKEN.finditer(text):
    kind, token = match.lastgroup, match[0]
    if kind == 'comment':
      continue
    if kind == 'name':
      is_call = text[match.end() :].lstrip().startswith('(')
      yield from _name(token, columns, is_call, field)
    elif kind == 'quoted':
      name = token[1:-1].replace('""', '"')
      if name not in columns:
        raise errors.unknown(field, 'column', name, _shown(name, columns))
      yield columns[name]
    elif token in (';', '"', "'", '$', '?', '{', '['):
      raise errors.ConfigError(
        field, f'found {token!r} in {text[:200]!r}', legal=_LEGAL
      )
    else:
      yield token


def _name(token, columns, is_call, field):
  """Yields the SQL of a name, or of names joined by slashes or minuses."""
  if token in columns:
    yield columns[token]
    return
  # a/b is a division and a-b a difference if only a is a column.
  for match in reversed(list(re.finditer('[/-]', token))):
    start, rest = token[: match.start()], token[match.end() :]
    if start in columns:
      yield columns[start] + match[0]
      if rest[0].isdigit():
        yield rest
      else:
        yield from _name(rest, columns, is_call, field)
      return
  if token.isidentifier() and (is_call or token.lower() in _WORDS):
    yield token
    return
  raise errors.unknown(field, 'column', token, _shown(token, columns))


def _shown(name, columns):
  """Returns the columns to list in a message: the main and the nearest ones."""
  near = errors.nearest(name, columns)
  main = [c for c in columns if '.' not in c and '/' not in c]
  return [*dict.fromkeys([*main, *filter(None, [near])])]
