"""Counts and lists examples that are skipped since they are wrong."""

from collections.abc import Mapping
from typing import Any

from kd.core import errors

REFUSE, SKIP = ON_ERROR = ('refuse', 'skip')  # data.on_error
_LISTED = 1000  # of those that are skipped, in a manifest


def taker(on_error: str) -> 'Skipped | None':
  """Returns what examples.stream calls with errors; None if it raises them."""
  return Skipped() if on_error == SKIP else None


class Skipped:
  """Takes note of examples; `examples.stream` calls it with each error."""

  def __init__(self):
    self.count = 0
    self._listed: list[str] = []

  def __call__(self, error: errors.ConfigError) -> None:
    self.count += 1
    if len(self._listed) < _LISTED:
      self._listed.append(str(error))

  def record(self) -> dict[str, Any]:
    """Returns the count and the first errors, as JSON; {} without any."""
    if not self.count:
      return {}
    return {'count': self.count, 'first': list(self._listed)}


def line(record: Mapping[str, Any]) -> str:
  """Returns a line for the user: how many, and the first ones.

  Args:
    record: from Skipped.record, of one or more.
  """
  shown = '; '.join(record['first'][: errors.NAMED])
  rest = record['count'] - errors.NAMED
  more = f'; and {rest:,} more' if rest > 0 else ''
  return f'{record["count"]:,} wrong examples skipped: {shown}{more}'
