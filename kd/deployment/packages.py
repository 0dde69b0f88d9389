"""Compares the installed packages with requirements.lock."""

from importlib import metadata
import os
import re

from kd.core import paths

SOURCE = 'requirements.lock'
_WHEEL = 'the metadata of kd'
# A pinned version, with an optional environment marker.
_PIN = re.compile(r'^([A-Za-z0-9][\w.-]*)==([^\s\\;]+) *(;[^\\]*)?', re.M)


def source() -> str:
  """Returns the name of the source to compare installed packages with."""
  return SOURCE if os.path.isfile(_lock()) else _WHEEL


def _lock() -> str:
  return os.path.join(paths.project_folder(), SOURCE)


def differences() -> tuple[list[str], int]:
  """Returns the differences, one line each, and the number of packages.

  A wheel has no lock file; then the packages that its metadata requires must be
  installed.
  """
  if source() == _WHEEL:
    return _of_wheel()
  with open(_lock(), encoding='utf-8') as f:
    pins = _PIN.findall(f.read())
  lines = []
  for name, wanted, marker in pins:
    version = _installed(name)
    if version is None:
      if not marker:
        lines.append(f'{name} is missing, {wanted} is locked')
    # Ignores the label of a local build after a plus sign: 2.13.0+cpu.
    elif version.partition('+')[0] != wanted:
      lines.append(f'{name} is {version}, {wanted} is locked')
  return lines, len(pins)


def _of_wheel() -> tuple[list[str], int]:
  required = [x for x in metadata.requires('kd') or [] if 'extra ==' not in x]
  names = [re.match(r'[\w.-]+', line)[0] for line in required]
  missing = [name for name in names if _installed(name) is None]
  return [f'{name} is missing' for name in missing], len(names)


def _installed(name: str) -> str | None:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None
