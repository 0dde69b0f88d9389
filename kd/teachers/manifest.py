"""What a cache is of: written first, compared by whoever reads it."""

from collections.abc import Iterable, Mapping
import json
import os
from typing import Any

from kd.core import config as config_lib
from kd.core import errors
from kd.core import run_info

FORMAT = 1  # Raise it when what is written changes its meaning.

# A folder with it is whole, and is not written to but by a repair.
FILE = 'manifest.json'
# What a cache that is being written is of.
REQUEST = 'request.json'


def read(folder: str, path: str) -> dict[str, Any]:
  """The manifest of a cache that is whole.

  Args:
    folder: of the cache.
    path: of the config's field that names it.

  Raises:
    ConfigError: there is no cache, or it isn't whole.
  """
  legal = 'a folder that --mode=cache has finished'
  if not os.path.isdir(folder):
    raise errors.ConfigError(path, f'{folder!r}: no such folder', legal=legal)
  file = os.path.join(folder, FILE)
  if not os.path.exists(file):
    found = f'{folder!r} holds no {FILE}'
    if os.path.exists(os.path.join(folder, REQUEST)):
      found = f'{folder!r} is being written, or was given up half-way'
      legal = 'a whole cache: --mode=cache with this config goes on with it'
    raise errors.ConfigError(path, found, legal=legal)
  manifest = _json(file, path)
  for key in ('format', 'request', 'shards', 'files'):
    if key not in manifest:
      raise errors.ConfigError(path, f'{file!r} has no {key!r}', legal=legal)
  if manifest['format'] != FORMAT:
    raise errors.ConfigError(
      path,
      f'{file!r} is of format {manifest["format"]}',
      legal=f'format {FORMAT}, as this version writes it',
    )
  return manifest


def _json(file, path):
  try:
    with open(file, encoding='utf-8') as f:
      return json.load(f)
  except (OSError, ValueError) as e:
    raise errors.ConfigError(
      path,
      f'{file!r} cannot be read: {e}',
      legal='the file as it was written',
    ) from e


def begin(folder: str, request: Mapping[str, Any], path: str) -> None:
  """Says what the folder will be of, or checks that it is of the same.

  Raises:
    ConfigError: it is of something else: names the fields.
  """
  file = os.path.join(folder, REQUEST)
  if os.path.exists(file):
    check(_json(file, path), request, folder, path)
  else:
    run_info.write_json(file, request)


def check(
  found: Mapping[str, Any],
  wanted: Mapping[str, Any],
  folder: str,
  path: str,
) -> None:
  """Compares what a cache is of with what is wanted, field by field.

  Args:
    found: the cache's request.
    wanted: what a field of it must be; fields that it lacks may be anything.
    folder: of the cache.
    path: of the config's field that names it.

  Raises:
    ConfigError: names each field that differs, with both values.
  """
  config_lib.refuse_differences(
    {key: found.get(key) for key in wanted},
    wanted,
    path,
    f'{folder!r} is a cache of something else',
    'another folder, or what that cache is of',
  )


def publish(
  folder: str,
  request: Mapping[str, Any],
  shards: Iterable[Mapping[str, Any]],
  files: Mapping[str, str],
) -> None:
  """Writes the manifest: from here on the cache is whole.

  Args:
    folder: of the cache.
    request: what it is of.
    shards: what is said of each file, see shards.facts.
    files: SHA-256 of what else there is, by name.
  """
  value = {
    'format': FORMAT,
    'request': request,
    'shards': list(shards),
    'files': files,
  }
  run_info.write_json(os.path.join(folder, FILE), value)
