"""Counts and lists skipped examples, which are invalid."""

from collections.abc import Mapping
from typing import Any

from kd.core import errors

REFUSE, SKIP = ON_ERROR = ('refuse', 'skip')  # data.on_error
_LISTED = 1000  # maximum number of errors in a manifest


def collector(on_error: str) -> 'Skipped | None':
  """Returns a collector of errors for examples.stream; None to raise them."""
  return Skipped() if on_error == SKIP else None


class Skipped:
  """Collects the errors of skipped examples."""

  def __init__(self):
    self.count = 0
    self._listed: list[str] = []

  def __call__(self, error: errors.ConfigError) -> None:
    self.count += 1
    if len(self._listed) < _LISTED:
      self._listed.append(str(error))

  def record(self) -> dict[str, Any]:
    """Returns the count and the first errors, as JSON; {} if there are none."""
    if not self.count:
      return {}
    return {'count': self.count, 'first': list(self._listed)}


def line(record: Mapping[str, Any]) -> str:
  """Returns a line with the number of skipped examples and the first errors.

  Args:
    record: a non-empty result of Skipped.record.
  """
  shown = '; '.join(record['first'][: errors.NAMED])
  rest = record['count'] - errors.NAMED
  more = f'; and {rest:,} more' if rest > 0 else ''
  return f'skipped {record["count"]:,} invalid examples: {shown}{more}'
