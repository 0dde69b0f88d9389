"""Numbers in files that describe a model: one rule for all kinds of files."""

from typing import Any

from kd.core import errors
from kd.core import json_files

# Bounds that no model comes near; beyond them a size is a damaged file's, and
# would take the memory of the machine before a tensor contradicts it.
MOST = 2**31 - 1
MOST_LAYERS = 1024


def number(value: Any, path: str, kind: type = int, most: float = MOST) -> Any:
  """Returns a size or a constant of a model.

  Args:
    value: what the file says, None if it says nothing.
    path: the file and its field, for messages.
    kind: int or float.
    most: the largest legal value.

  Returns:
    The value, as a `kind`.

  Raises:
    ConfigError: the value is missing, is no number, or is out of range.
  """
  legal = f'a number above 0, up to {most}'
  if kind is int:
    legal = f'a whole number from 1 to {most}'
  if value is None:
    raise errors.ConfigError(path, 'missing', legal=legal)
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  # Compared first: `int` and `float` fail on infinity and on huge integers.
  if not is_number or not 0 < value <= most or kind(value) != value:
    raise errors.ConfigError(
      path, f'found {json_files.short(value)}', legal=legal
    )
  return kind(value)


def check_kv_heads(heads: int, kv_heads: int, path: str, name: str) -> None:
  """Raises ConfigError unless key and value heads divide the query heads.

  Args:
    heads: query heads.
    kv_heads: key and value heads.
    path: the file and its field of `kv_heads`.
    name: the field of `heads`.
  """
  if heads % kv_heads:
    raise errors.ConfigError(
      path, f'found {kv_heads}', legal=f'divisors of {name} = {heads}'
    )
