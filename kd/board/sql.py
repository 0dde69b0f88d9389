"""Selects rows by an SQL condition, with DuckDB."""

from collections.abc import Iterable, Mapping, Sequence
import json
import re
import threading
from typing import Any

from kd.core import errors

Row = Mapping[str, Any]

TABLE, NUMBER = 'runs', 'row_number'
_MOST_S = 5  # Time limit of a query: a subquery could run forever.


def types(rows: Iterable[Row]) -> dict[str, str]:
  """Returns the SQL type of each column, by name."""
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
  """Returns the SQL names of columns: SQL ignores the case of names."""
  return {name: f'column_{i}' for i, name in enumerate(types)}


def table(rows: Sequence[Row], types: Mapping[str, str]) -> Any:
  """Returns an Arrow table of the rows, with their index as NUMBER."""
  import pyarrow as pa  # Slow to import, and only needed here.

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
  """Returns the indices of the rows that a statement selects.

  Args:
    statement: SQL that selects NUMBER from TABLE.
    rows: a result of `table`.
    names: SQL names of its columns, from `columns`.
    field: config field of the condition, for messages.

  Raises:
    ConfigError: the condition is invalid or takes too long.
  """
  import duckdb  # Slow to import, and only needed here.

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
  # json.dumps formats true and 1.0 as in config.json.
  text = value if isinstance(value, str) else json.dumps(value)
  return text.encode('utf-8', 'replace').decode()


def _float(value):
  try:
    return float(value)
  except OverflowError:
    return float('inf')
