"""Selects rows by a condition in SQL, in DuckDB."""

from collections.abc import Iterable, Mapping, Sequence
import json
import re
import threading
from typing import Any

from kd.core import errors

Row = Mapping[str, Any]

TABLE, NUMBER = 'runs', 'row_number'
_MOST_S = 5  # For a condition: a subquery could take forever.


def types(rows: Iterable[Row]) -> dict[str, str]:
  """Returns the type of each column, by name."""
  kinds: dict[str, set[type]] = {}
  for row in rows:
    for name, value in row.items():
      kinds.setdefault(name, set()).add(type(value))
  return {name: _type(kind - {type(None)}) for name, kind in kinds.items()}


def _type(kinds):
  if kinds <= {bool} and kinds:
    return 'BOOLEAN'
  if kinds <= {int, float} and kinds:
    return 'DOUBLE'
  return 'VARCHAR'


def columns(types: Iterable[str]) -> dict[str, str]:
  """Returns the columns' names in SQL, which ignores the case of names."""
  return {name: f'column_{i}' for i, name in enumerate(types)}


def table(rows: Sequence[Row], types: Mapping[str, str]) -> Any:
  """Returns an Arrow table of the rows and, as NUMBER, their numbers."""
  import pyarrow as pa  # Modes that list no runs don't wait for it.

  arrow = {
    'VARCHAR': pa.string(),
    'BOOLEAN': pa.bool_(),
    'DOUBLE': pa.float64(),
    'BIGINT': pa.int64(),
  }
  convert = {'VARCHAR': _text, 'DOUBLE': _float}
  arrays = {NUMBER: pa.array(range(len(rows)), pa.int64())}
  in_sql = columns(types)
  for name, kind in types.items():
    values = [row.get(name) for row in rows]
    if kind in convert:
      values = [None if v is None else convert[kind](v) for v in values]
    arrays[in_sql[name]] = pa.array(values, arrow[kind])
  return pa.table(arrays)


def numbers(
  statement: str, rows: Any, names: Mapping[str, str], field: str
) -> list[int]:
  """Returns the numbers of rows that a statement selects.

  Args:
    statement: selects NUMBER from TABLE.
    rows: a `table`.
    names: of its columns in SQL, from `columns`.
    field: that holds the condition, for messages.

  Raises:
    ConfigError: the condition is wrong, or takes too long.
  """
  import duckdb  # Modes that list no runs don't wait for it.

  with duckdb.connect(':memory:') as connection:
    connection.execute("SET memory_limit = '512MB'")
    connection.execute('SET enable_external_access = false')
    connection.register(TABLE, rows)
    limit = threading.Timer(_MOST_S, connection.interrupt)
    limit.start()
    try:
      return [number for (number,) in connection.execute(statement).fetchall()]
    except duckdb.InterruptException as e:
      raise errors.ConfigError(
        field, f'takes longer than {_MOST_S} s', legal='a condition on columns'
      ) from e
    except duckdb.Error as e:
      known = {column: name for name, column in names.items()}
      message = re.sub(
        r'column_\d+', lambda m: known.get(m[0], m[0]), str(e).split('\n')[0]
      )
      raise errors.ConfigError(
        field, message, legal='a condition in SQL; see docs/board.md'
      ) from e
    finally:
      limit.cancel()
      limit.join()


def _text(value):
  # json.dumps writes true and 1.0 as the config's file does.
  text = value if isinstance(value, str) else json.dumps(value)
  return text.encode('utf-8', 'replace').decode()


def _float(value):
  try:
    return float(value)
  except OverflowError:
    return float('inf')
