"""Reads, checks and writes the manifest of a cache: its identity and files."""

from collections.abc import Iterable, Mapping
import os
from typing import Any

from kd.config import check as config_check
from kd.config.fields import data as data_fields
from kd.core import atomic_files
from kd.core import config as config_lib
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.teachers.cache import shards

FORMAT = 2  # Increment when the meaning of stored data changes.

# A folder with this file is complete; only a repair changes it.
FILE = 'manifest.json'
# A folder with this file and no manifest is incomplete.
REQUEST = 'request.json'

_KINDS = {dict: 'an object', list: 'a list', int: 'a whole number', str: 'text'}


def read(folder: str, path: str) -> dict[str, Any]:
  """Reads and checks the manifest of a complete cache.

  Args:
    folder: the cache's folder.
    path: the config field of the folder.

  Raises:
    ConfigError: there is no cache, it is incomplete, or a field of its manifest
      is illegal; names the file and the field.
  """
  legal = 'a folder that --mode=cache has finished'
  if not os.path.isdir(folder):
    raise errors.ConfigError(path, f'{folder!r}: no such folder', legal=legal)
  file = os.path.join(folder, FILE)
  if not os.path.exists(file):
    problem = f'{folder!r} holds no {FILE}'
    if os.path.exists(os.path.join(folder, REQUEST)):
      problem = f'{folder!r} is being written, or was left incomplete'
      legal = 'a complete cache: --mode=cache with this config resumes it'
    raise errors.ConfigError(path, problem, legal=legal)
  manifest = json_files.read(file, path)
  try:
    _check_shape(manifest)
  except errors.ConfigError as e:
    raise errors.ConfigError(path, f'{file!r}: {e}') from e
  return manifest


def _check_shape(manifest: Mapping[str, Any]) -> None:
  """Raises ConfigError, naming the field, if the manifest is malformed.

  `check` compares the other fields of the request.
  """
  version = manifest['format'] if 'format' in manifest else None
  if version != FORMAT:
    raise errors.ConfigError(
      'format',
      f'found {json_files.short(version)}',
      legal=f'{FORMAT}, as this version writes it',
    )
  for key, kind in (('request', dict), ('shards', list), ('files', dict)):
    _check_type(manifest, key, kind, key)
  request = manifest['request']
  for key, kind in (('method', dict), ('vocab_size', int), ('teachers', list)):
    _check_type(request, key, kind, f'request.{key}')
  method = request['method']
  if 'draws' in method:
    # Recorded only if it is not 1, for compatibility with earlier versions.
    method = {'temperature': 1.0, **method}
  config_check.check_node(data_fields.CACHE_METHOD, method, 'request.method')
  if not request['teachers']:
    raise errors.ConfigError('request.teachers', 'found none')
  for number, teacher in enumerate(request['teachers']):
    where = f'request.teachers.{number}'
    _check_type(request['teachers'], number, dict, where)
    for key in ('digest', 'dtype'):
      _check_type(teacher, key, str, f'{where}.{key}')
  rows = 0
  for number, shard in enumerate(manifest['shards']):
    config_check.check_node(shards.FACTS, shard, f'shards.{number}')
    if shard['first_row'] != rows:
      raise errors.ConfigError(
        f'shards.{number}.first_row', f'found {shard["first_row"]}', str(rows)
      )
    rows += shard['rows']
  for name in manifest['files']:
    _check_type(manifest['files'], name, str, f'files.{name[:80]}')
  _check_type(manifest, 'digest', str, 'digest')
  digest = identity.content_digest(manifest)
  if manifest['digest'] != digest:
    raise errors.ConfigError(
      'digest',
      f'found {json_files.short(manifest["digest"])}, but the other fields '
      f'have digest {digest}: the file was edited',
      legal='the file as --mode=cache wrote it',
    )


def _check_type(part: Any, key: str | int, kind: type, path: str) -> None:
  if isinstance(part, dict) and key not in part:
    raise errors.ConfigError(path, 'missing', legal=_KINDS[kind])
  if type(part[key]) is not kind:
    raise errors.ConfigError(
      path, f'found {json_files.short(part[key])}', legal=_KINDS[kind]
    )


def cache_digest(request: Mapping[str, Any]) -> str:
  """Returns the digest of a request, which binds the cache's records to it."""
  return identity.digest(request)


def begin(folder: str, request: Mapping[str, Any], path: str) -> None:
  """Writes the request file, or compares the request with an existing file.

  Raises:
    ConfigError: the folder was created for another request; names the fields.
  """
  file = os.path.join(folder, REQUEST)
  begun = {'format': FORMAT, **request}
  if os.path.exists(file):
    check(json_files.read(file, path), begun, folder, path)
  else:
    atomic_files.write_json(file, begun)


def check(
  found: Mapping[str, Any],
  wanted: Mapping[str, Any],
  folder: str,
  path: str,
) -> None:
  """Compares a cache's request with the wanted one, field by field.

  Args:
    found: the cache's request.
    wanted: the required values; other fields are not compared.
    folder: the cache's folder.
    path: the config field of the folder.

  Raises:
    ConfigError: fields differ; names each one with both values.
  """
  config_lib.refuse_differences(
    {key: found.get(key) for key in wanted},
    wanted,
    path,
    f'{folder!r} is the cache of another config',
    'another folder, or the values with which the cache was made',
  )


def publish(
  folder: str,
  request: Mapping[str, Any],
  shards: Iterable[Mapping[str, Any]],
  files: Mapping[str, str],
) -> None:
  """Writes the manifest, which makes the cache complete.

  Args:
    folder: the cache's folder.
    request: the settings and rows that determine the cache's contents.
    shards: metadata of each file, see shards.facts.
    files: SHA-256 of other files, by name.
  """
  value = {
    'format': FORMAT,
    'request': request,
    'shards': list(shards),
    'files': files,
  }
  file = os.path.join(folder, FILE)
  atomic_files.write_json(file, identity.with_digest(value))
