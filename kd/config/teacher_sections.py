"""The sections of a config that describe its teachers."""

from typing import Any


def of(config: Any) -> dict[str, Any]:
  """Returns the section of each teacher by its path, `teacher` first."""
  return {'teacher': config.teacher} | {
    f'teacher.others.{name}': section
    for name, section in sorted(config.teacher.others.items())
  }
