"""Detects changes in the weight files of a cache's teachers.

A cache is identified by the digest of its teachers' parameters, but training
from it does not load them. Files are compared instead: by size and
modification time first, then by SHA-256.
"""

from collections.abc import Mapping
import contextlib
import glob
import hashlib
import os
import re
from typing import Any

from kd.checkpoints import digests
from kd.checkpoints import manager
from kd.core import atomic_files
from kd.core import errors
from kd.core import json_files
from kd.core import objects
from kd.core import paths
from kd.core import run_info
from kd.input_pipeline import file_digests
from kd.teachers.cache import manifest

# In a cache's folder. The manifest, whose digest identifies the cache, does not
# contain it: the same weights may be stored in other files.
FILE = 'teacher_files.json'

_ABSENT = 'absent'
_SHOWN = 16  # Hex digits of a digest.
_GGUF_PART = re.compile(r'-\d{5,}(-of-\d{5,}\.gguf)$')
_HF = ('config.json', '*.safetensors', '*.safetensors.index.json')


def _files(init: str) -> dict[str, str]:
  """Returns the paths of 'hf:DIR', 'gguf:FILE' or 'workdir:DIR', by file name.

  Some of them may not exist.
  """
  kind, _, place = init.partition(':')
  place = paths.expand(place)
  if kind == 'workdir':
    # This file has the digests of the checkpoint's other files.
    step = str(manager.latest_step(place))
    return {
      digests.FILE: os.path.join(manager.folder_of(place), step, digests.FILE)
    }
  if kind == 'gguf':
    # init names one part of a split model; match all parts.
    patterns = [_GGUF_PART.sub(r'-*\1', glob.escape(place))]
  else:
    patterns = [os.path.join(glob.escape(place), name) for name in _HF]
  return {
    os.path.basename(path): path
    for pattern in patterns
    for path in glob.glob(pattern)
  }


def describe(inits: Mapping[str, str], folder: str) -> dict[str, Any]:
  """Describes the files of teachers.

  Args:
    inits: source of the weights, by config field.
    folder: folder of known digests of large files, see file_digests.Digests.

  Returns:
    JSON values by field: `init`, and `files`, which has [bytes, modification
    time in ns, SHA-256] by name.
  """
  known = file_digests.Digests(folder)
  described = {}
  for field, init in inits.items():
    files = {}
    for name, path in _files(init).items():
      content = _content(path, known)
      if content is not None:
        files[name] = list(content)
    described[field] = {'init': init, 'files': files}
  return described


def _content(path, known):
  """Returns size, modification time and SHA-256 of a file; None if missing.

  The time of an object in a bucket is 0: it is small, and read each time.
  """
  if objects.is_url(path):
    data = objects.read(path).data
    if data is None:
      return None
    return len(data), 0, hashlib.sha256(data).hexdigest()
  if not os.path.exists(path):
    return None
  # Stat before reading, so that a change in between is detected later.
  modified = os.stat(path).st_mtime_ns
  content = known.get(path)
  return content and (content[0], modified, content[1])


def record(cache: str, described: Mapping[str, Any]) -> None:
  """Writes the result of `describe` to a cache's folder, if it is new.

  A damaged record is replaced.
  """
  path = os.path.join(cache, FILE)
  with contextlib.suppress(errors.ConfigError):
    if os.path.exists(path) and _read(cache) == described:
      return
  atomic_files.write_json(path, described)


def _read(cache):
  """Returns the record; {} if the cache has none."""
  recorded = json_files.read_in(cache, FILE, 'cache.folder')
  for field, value in recorded.items():
    if not _is_description(value):
      raise errors.ConfigError(
        'cache.folder',
        f'{os.path.join(cache, FILE)}: {field}: found '
        f'{json_files.short(value)}',
        legal='the file as --mode=cache wrote it',
      )
  return recorded


def _is_description(value):
  if not isinstance(value, dict) or value.keys() != {'init', 'files'}:
    return False
  init, files = value['init'], value['files']
  return (
    isinstance(init, str)
    and isinstance(files, dict)
    and all(
      isinstance(x, list) and list(map(type, x)) == [int, int, str]
      for x in files.values()
    )
  )


def warnings(cache: str, inits: Mapping[str, str], folder: str) -> list[str]:
  """Returns a warning for each teacher whose files differ from the record.

  A teacher without files on this machine is not compared.

  Args:
    cache: the cache's folder.
    inits: source of the weights in the config, by field; the recorded one is
      used for a field that is absent or ''.
    folder: as for `describe`.

  Raises:
    ConfigError: the record is damaged.
  """
  lines = []
  for field, recorded in _read(cache).items():
    init = inits.get(field) or recorded['init']
    changes = _changes(recorded['files'], init, folder)
    if changes:
      date = run_info.date(os.path.join(cache, manifest.FILE))
      lines.append(
        f'warning: cache.folder {cache!r} was written on {date} from {field} '
        f'{recorded["init"]!r}; '
        + ('' if init == recorded['init'] else f'{field} is {init!r} now, and ')
        + f'these files differ: {", ".join(changes)}. The targets are those of '
        'the teacher at that time. To train on the current one, write a cache '
        'in another folder (--mode=cache); if its weights are the same, '
        '--mode=cache with this folder confirms this and removes the warning'
      )
  return lines


def _changes(recorded, init, folder):
  """Returns 'NAME (SHA-256 X then, Y now)' of each file that differs."""
  known = file_digests.Digests(folder)
  here = {n: path for n, path in _files(init).items() if _exists(path)}
  changes = []
  for name in sorted(recorded.keys() | here.keys()) if here else ():
    size, modified, then = recorded.get(name, (None, None, _ABSENT))
    now = _ABSENT
    if name in here:
      if _is_as_recorded(here[name], size, modified):
        continue
      content = _content(here[name], known)
      now = content[2] if content else 'unreadable'
    if now != then:
      changes.append(
        f'{name} (SHA-256 {then[:_SHOWN]} then, {now[:_SHOWN]} now)'
      )
  return changes


def _exists(path):
  if objects.is_url(path):
    return objects.read(path).data is not None
  return os.path.exists(path)


def _is_as_recorded(path, size, modified):
  """Returns whether a file has the recorded size and modification time."""
  if objects.is_url(path):
    return False
  status = os.stat(path)
  return [status.st_size, status.st_mtime_ns] == [size, modified]
