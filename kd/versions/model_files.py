"""Copies the files of a version into the registry, with digests."""

from collections.abc import Mapping
import errno
import os
import shutil
from typing import Any

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import layout
from kd.run import provenance

_LEGAL = (
  'a folder or a GGUF file that --mode=export wrote, with its '
  f'{provenance.FILE}'
)
_AT_A_TIME = 1 << 30  # Bytes per call of copy_file_range.
# Errors if the kernel cannot copy between these files.
_NO_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def located(path: str) -> tuple[str, str, str]:
  """Returns kind, folder and provenance file of an exported model.

  Args:
    path: a folder for transformers, or a GGUF file.

  Raises:
    ConfigError: there is no model, or it was not written by an export.
  """
  kind, folder, file = 'hf', path, os.path.join(path, provenance.FILE)
  if path.endswith('.gguf'):
    kind, folder = 'gguf', os.path.dirname(path)
    file = f'{path}.{provenance.FILE}'
  if not os.path.isfile(file):
    nearest = os.path.join(path, layout.EXPORT, 'hf')
    raise errors.ConfigError(
      'command line',
      f'{path!r} has no {os.path.basename(file)}',
      legal=_LEGAL,
      nearest=nearest if os.path.isdir(nearest) else '',
    )
  return kind, folder, file


def copy(path: str, new: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
  """Copies a model to a new folder and checks the copies by its provenance.

  Args:
    path: see `located`.
    new: path of the empty folder.

  Returns:
    The value of `student.init` for the copy; `bytes` and `sha256` by file name;
    and the claims of the provenance.

  Raises:
    ConfigError: a file is missing or has changed since the export.
  """
  kind, folder, claims_file = located(path)
  claims = provenance.read(claims_file)
  names = [*claims['files'], os.path.basename(claims_file)]
  for name in names:
    if os.path.basename(name) != name:
      raise errors.ConfigError(
        claims_file, f'names {name!r}', legal='names of files in its folder'
      )
    if not os.path.isfile(os.path.join(folder, name)):
      raise errors.ConfigError(
        os.path.join(folder, name), 'is missing', legal=_LEGAL
      )
    _copy_file(os.path.join(folder, name), os.path.join(new, name))
  atomic_files.sync(new)
  files = digests(new, names)
  _raise_if_differing(_differing(folder, claims['files'], files))
  where = new
  if kind == 'gguf':
    where = os.path.join(new, os.path.basename(path))
  return f'{kind}:{where}', files, claims


def check(path: str) -> None:
  """Raises ConfigError if files of a model have changed since the export.

  Args:
    path: see `located`.
  """
  _, folder, claims_file = located(path)
  claims = provenance.read(claims_file)['files']
  _raise_if_differing(_differing(folder, claims))


def exported(path: str) -> tuple[str, int, list[str]]:
  """Compares an exported model with its provenance.

  Args:
    path: see `located`.

  Returns:
    The value of `student.init` for the model; the number of files; and the
    differences, one line each.
  """
  kind, folder, claims_file = located(path)
  claims = provenance.read(claims_file)['files']
  return f'{kind}:{path}', len(claims), _differing(folder, claims)


def _raise_if_differing(lines):
  if lines:
    raise errors.ConfigError(
      'command line',
      f'files have changed since the export: {errors.first_of(lines)}',
      legal='export it again',
    )


def digests(folder: str, names: list[str]) -> dict[str, Any]:
  """Returns `bytes` and `sha256` by file name."""
  paths = {name: os.path.join(folder, name) for name in names}
  return {
    name: {
      'bytes': os.path.getsize(file),
      'sha256': identity.file_digest(file),
    }
    for name, file in sorted(paths.items())
  }


def problems(folder: str, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Returns the differences of a version's files from the recorded ones."""
  there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
  more = [
    f'{folder}/{name}: does not belong to this version'
    for name in sorted(there - files.keys())
  ]
  return [*_differing(folder, files), *more]


def _differing(folder, recorded, copies=None) -> list[str]:
  """Returns the differences of files from the recorded ones, one line each.

  Args:
    folder: folder of the files.
    recorded: recorded `sha256` by file name.
    copies: `sha256` of copies by file name, to compare instead of the files;
      None to compare the files.
  """
  lines = []
  for name in sorted(recorded):
    path, wanted = os.path.join(folder, name), recorded[name]['sha256']
    if copies is None and not os.path.isfile(path):
      lines.append(f'{path}: is missing')
      continue
    digest = copies[name]['sha256'] if copies else identity.file_digest(path)
    if digest != wanted:
      lines.append(f'{path}: its digest is {digest}, not {wanted}')
  return lines


def _copy_file(source: str, target: str) -> None:
  """Copies a file; XFS and Btrfs share its blocks and copy on write.

  With a hard link, an edit of the export would change the version.
  """
  with open(source, 'rb') as a, open(target, 'wb') as b:
    try:
      while os.copy_file_range(a.fileno(), b.fileno(), _AT_A_TIME):
        pass
    except OSError as e:
      if e.errno not in _NO_COPY:
        raise
      a.seek(0)
      b.truncate(0)
      b.seek(0)
      shutil.copyfileobj(a, b)
    b.flush()
    os.fsync(b.fileno())
