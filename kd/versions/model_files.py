"""The files of a version: copied into the registry, with digests."""

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
_AT_A_TIME = 1 << 30  # Bytes that the kernel is asked to copy.
# Where the kernel does not copy between these files.
_NO_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def located(path: str) -> tuple[str, str, str]:
  """Returns kind, folder and provenance file of an exported model.

  Args:
    path: a folder for transformers, or a GGUF file.

  Raises:
    ConfigError: there is no model, or no export wrote it.
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
  """Copies a model into a new folder, and checks it against its provenance.

  The copies are checked, so that what is recorded is what is there.

  Args:
    path: as for `located`.
    new: the folder, which is empty.

  Returns:
    Where its weights are, as `student.init` names it; by name of a file, its
    `bytes` and `sha256`; and the claims of its provenance.

  Raises:
    ConfigError: a file is missing, or is not the one that was exported.
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
  """Raises ConfigError unless a model's files are those that were exported.

  Args:
    path: as for `located`.
  """
  _, folder, claims_file = located(path)
  claims = provenance.read(claims_file)['files']
  _raise_if_differing(_differing(folder, claims))


def exported(path: str) -> tuple[str, int, list[str]]:
  """Compares an exported model with its provenance.

  Args:
    path: as for `located`.

  Returns:
    Where its weights are, as `student.init` names it; the number of its files;
    and how they differ, a line each.
  """
  kind, folder, claims_file = located(path)
  claims = provenance.read(claims_file)['files']
  return f'{kind}:{path}', len(claims), _differing(folder, claims)


def _raise_if_differing(lines):
  if lines:
    raise errors.ConfigError(
      'command line',
      f'not the files that were exported: {errors.first_of(lines)}',
      legal='export it again',
    )


def digests(folder: str, names: list[str]) -> dict[str, Any]:
  """Returns `bytes` and `sha256` of files, by name."""
  paths = {name: os.path.join(folder, name) for name in names}
  return {
    name: {
      'bytes': os.path.getsize(file),
      'sha256': identity.file_digest(file),
    }
    for name, file in sorted(paths.items())
  }


def problems(folder: str, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Returns how the files of a version differ from what was recorded."""
  there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
  more = [
    f'{folder}/{name}: is no file of this version'
    for name in sorted(there - files.keys())
  ]
  return [*_differing(folder, files), *more]


def _differing(folder, recorded, copies=None) -> list[str]:
  """Returns how files differ from what was recorded, a line each.

  Args:
    folder: of the files.
    recorded: by name, `sha256`.
    copies: of the files, if there are any, by name their `sha256`; they are
      compared instead.
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
  """Copies a file; XFS and Btrfs share its blocks, and copy on write.

  A hard link would let an edit of the export change a version.
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
