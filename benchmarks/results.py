"""Prints a result as one line of JSON."""

from collections.abc import Mapping
import json
from typing import Any

_DIGITS = 4


def _rounded(value):
  if isinstance(value, float):
    return float(f'{value:.{_DIGITS}g}')
  if isinstance(value, Mapping):
    return {k: _rounded(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_rounded(v) for v in value]
  return value


def show(result: Mapping[str, Any]) -> None:
  """Prints a result with its numbers rounded to four digits."""
  print(json.dumps(_rounded(result)), flush=True)
