"""Finds the files of a location: a path, a pattern or a folder."""

from collections.abc import Sequence
import glob
import json
import os
import re

from kd.core import buckets
from kd.core import errors
from kd.core import objects
from kd.core import paths

JSON_KINDS = ('.jsonl', '.ndjson', '.json')
COMPRESSIONS = ('.gz', '.zst')
PARQUET, ARROW = '.parquet', '.arrow'
LEGAL = (
  'JSON lines (.jsonl, .ndjson, .json; also .gz, .zst), .parquet, a folder or '
  "pattern of them, or a folder of Hugging Face's save_to_disk"
)
_SPLITS = 'dataset_dict.json'  # In a folder with one subfolder per split.
_STATE = 'state.json'  # Lists the files of one split, in order.
COPY = 'copy of '  # Prefix of patterns of files in a bucket.


def is_location(text: str) -> bool:
  """Returns whether a text names files rather than a seqio task or mixture."""
  return bool(re.search(r'[/*?\[~]', text)) or bool(kind(text))


def kind(path: str) -> str:
  """Returns the extension that identifies a file's format, '' if unknown."""
  name = os.path.basename(path).lower()
  for compression in COMPRESSIONS:
    name = name.removesuffix(compression)
  extension = os.path.splitext(name)[1]
  return extension if extension in (*JSON_KINDS, PARQUET, ARROW) else ''


def splits(location: str) -> tuple[str, ...]:
  """Returns the splits that a folder declares, () for any other location.

  Raises:
    ConfigError: the file that lists them is damaged.
  """
  path = os.path.join(local(location), _SPLITS)
  if not os.path.isfile(path):
    return ()
  return tuple(_list(path, 'splits'))


def local(location: str) -> str:
  """Returns the local path of a location; a bucket is copied first.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  if not objects.is_url(location):
    return paths.expand(location)
  base = location
  while glob.has_magic(base):
    base = base.rpartition('/')[0]
  return paths.expand(base) + location[len(base) :]


def files(location: str, field: str, split: str = '') -> list[str]:
  """Returns the files of a location, in order.

  Args:
    location: a file, a pattern or a folder.
    field: config field that contains the location, for messages.
    split: one of `splits(location)`, if there are any.

  Raises:
    ConfigError: there are no files, or the format of one is unknown.
  """
  path = local(location)
  if split:
    path = os.path.join(path, split)
  if '://' in path:
    raise errors.ConfigError(
      field,
      f'found {location!r}, which is not a local path',
      legal='files of this machine, of gs:// or of s3://',
    )
  if os.path.isdir(path):
    return _of_folder(path, field)
  matches = [path]
  if not os.path.exists(path):
    matches = sorted(glob.glob(path, recursive=True))
    if '**' in path:  # Also matches folders.
      matches = [match for match in matches if not os.path.isdir(match)]
  if not matches:
    raise errors.ConfigError(
      field, f'no file {location!r}', legal=LEGAL, nearest=_nearest(path)
    )
  for match in matches:
    if not kind(match) or not os.path.isfile(match):
      raise errors.ConfigError(
        field, f'cannot tell the format of {match!r}', legal=LEGAL
      )
  return matches


def _of_folder(folder: str, field: str) -> list[str]:
  state = os.path.join(folder, _STATE)
  if os.path.isfile(state):
    return [
      os.path.join(folder, entry['filename'])
      for entry in _list(state, '_data_files')
    ]
  if os.path.isfile(os.path.join(folder, _SPLITS)):
    names = _list(os.path.join(folder, _SPLITS), 'splits')
    raise errors.ConfigError(
      'data.split', f'{folder!r} has no such split', legal=', '.join(names)
    )
  names = sorted(name for name in os.listdir(folder) if kind(name))
  # A .json file next to other formats is metadata.
  names = [n for n in names if kind(n) != '.json'] or names
  if not names:
    raise errors.ConfigError(field, f'no data in {folder!r}', legal=LEGAL)
  return [os.path.join(folder, name) for name in names]


def _list(path: str, key: str) -> list:
  """Returns a list from a JSON file of save_to_disk."""
  try:
    with open(path, encoding='utf-8') as f:
      value = json.load(f)[key]
    if isinstance(value, list):
      return value
    problem = f'{key} is not a list'
  except (ValueError, KeyError, TypeError) as e:
    problem = f'{type(e).__name__}: {e}'
  raise errors.ConfigError(
    path, f'is damaged ({problem})', legal='a folder of save_to_disk'
  )


def _nearest(path: str) -> str:
  folder = os.path.dirname(path) or '.'
  if not os.path.isdir(folder):
    return ''
  near = errors.nearest(os.path.basename(path), os.listdir(folder))
  return os.path.join(os.path.dirname(path), near) if near else ''


def patterns(location: str) -> Sequence[str]:
  """Returns absolute glob patterns of the files that a location may contain.

  For a bucket, the pattern is COPY and the location; see `local`.
  """
  if objects.is_url(location):
    return [COPY + location]
  path = os.path.abspath(paths.expand(location))
  is_pattern = not os.path.exists(path)
  return [path if is_pattern else glob.escape(path)]


def remote_pattern(pattern: str) -> str:
  """Replaces a pattern of a bucket's local copy as in `patterns`."""
  return COPY + buckets.remote(pattern) if buckets.is_copy(pattern) else pattern


def task_name(location: str) -> str:
  """Returns a task name for a location, from the end of its path."""
  parts = [part for part in re.split(r'[/\\]+', location) if part not in '.~']
  shown = parts[-1:] if parts and not glob.has_magic(parts[-1]) else parts[-2:]
  name = re.sub(r'[^\w.]|_', ' ', '_'.join(shown))
  name = '_'.join(name.split())
  return name or 'files'
