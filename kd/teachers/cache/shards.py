"""The shards of a cache: files with the records of consecutive rows."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import re
from typing import Any

from array_record.python import array_record_module

from kd.config import check as config_check
from kd.config import legal
from kd.config import schema
from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import json_files

# One record per group, so that a read decompresses only its row.
_OPTIONS = 'group_size:1,brotli:6'
_PREFIX, _SUFFIX = 'targets-', '.array_record'

# Statistics of a file's targets.
SUMS = ('nll', 'entropy', 'tail_mass', 'dropped_mass')
COUNTS = ('positions', 'entries', 'most_entries')


def _required(values: Mapping[str, legal.Legal]) -> dict[str, schema.Field]:
  return {k: schema.Field(schema.REQUIRED, v, '') for k, v in values.items()}


_LARGE = legal.Integer(0, 2**62)
FACTS = schema.Section(
  'A file of targets.',
  {
    **_required(
      {
        'file': legal.Matching(
          rf'{_PREFIX}\d{{5,}}-of-\d{{5,}}{re.escape(_SUFFIX)}',
          f'{_PREFIX}N-of-M{_SUFFIX}',
        ),
        'first_row': _LARGE,
        'rows': legal.Integer(1, 2**62),
        'bytes': _LARGE,
        'sha256': legal.Matching('[0-9a-f]{64}', '64 hex digits'),
      }
    ),
    'statistics': schema.Section(
      'Sums and maxima over its targets.',
      _required(
        dict.fromkeys(SUMS, legal.Number()) | dict.fromkeys(COUNTS, _LARGE)
      ),
    ),
  },
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of a cache.

  Attributes:
    number: index of the file, from 0.
    count: number of files of the cache.
    first_row: row_id of its first record.
    rows: number of records.
  """

  number: int
  count: int
  first_row: int
  rows: int

  @property
  def name(self) -> str:
    return f'{_PREFIX}{self.number:05d}-of-{self.count:05d}{_SUFFIX}'

  def path(self, folder: str) -> str:
    return os.path.join(folder, self.name)

  def facts_path(self, folder: str) -> str:
    """Returns the path of its metadata, which is removed on completion."""
    return os.path.join(folder, self.name.partition('.')[0] + '.json')


def plan(rows: int, shard_rows: int) -> list[Shard]:
  """Returns the shards for this number of rows."""
  count = -(-rows // shard_rows)
  return [
    Shard(n, count, n * shard_rows, min(shard_rows, rows - n * shard_rows))
    for n in range(count)
  ]


class Writer:
  """Writes one file under a temporary name, and renames it when complete."""

  def __init__(self, folder: str, shard: Shard):
    self._folder, self._shard = folder, shard
    self._temporary = shard.path(folder) + '.tmp'
    # The writer would append to the file of a killed process.
    if os.path.exists(self._temporary):
      os.unlink(self._temporary)
    with kd_errors(self._temporary):
      self._writer = array_record_module.ArrayRecordWriter(
        self._temporary, _OPTIONS
      )
    self._written = 0

  def write(self, record: bytes) -> None:
    """Adds a record.

    Raises:
      KdError: the disk is full or fails.
    """
    with kd_errors(self._temporary):
      self._writer.write(record)
    self._written += 1

  def finish(self, statistics: dict[str, float]) -> None:
    """Renames the file, then writes its metadata, which marks it complete.

    Args:
      statistics: statistics of its rows.

    Raises:
      KdError: the disk is full or fails; the file is not renamed.
      OSError: likewise.
    """
    shard = self._shard
    if self._written != shard.rows:
      raise ValueError(f'{self._written} of {shard.rows} rows were written')
    with kd_errors(self._temporary):
      self._writer.close()
      atomic_files.sync(self._temporary)
      # Count the records that are really on the disk.
      reader = array_record_module.ArrayRecordReader(self._temporary)
      with contextlib.closing(reader):
        count = reader.num_records()
    if count != shard.rows:
      raise errors.KdError(
        f'{self._temporary}: {count} of {shard.rows} rows are on the disk'
      )
    facts = {
      'file': shard.name,
      'first_row': shard.first_row,
      'rows': shard.rows,
      'bytes': os.path.getsize(self._temporary),
      'sha256': identity.file_digest(self._temporary),
      'statistics': statistics,
    }
    os.replace(self._temporary, shard.path(self._folder))
    buckets.upload_file(shard.path(self._folder))
    atomic_files.write_json(shard.facts_path(self._folder), facts)


@contextlib.contextmanager
def kd_errors(path: str) -> Iterator[None]:
  """Converts library exceptions other than OSError to KdError."""
  try:
    yield
  except OSError:
    raise
  except Exception as e:
    raise errors.KdError(
      f'{path}: could not be written: {e}; once that is fixed, the same '
      'command resumes'
    ) from e


def facts(folder: str, shard: Shard) -> dict[str, Any] | None:
  """Reads a file's metadata; None if the file must be written again."""
  path = shard.facts_path(folder)
  try:
    record = json_files.read(path)
    config_check.check_node(FACTS, record, path)
    size = os.path.getsize(shard.path(folder))
  except (FileNotFoundError, errors.ConfigError):
    return None
  return record if size == record['bytes'] else None


def problem(folder: str, facts: dict[str, Any], deep: bool) -> str:
  """Returns the problem of a file; '' if it has none.

  Args:
    folder: the cache's folder.
    facts: the file's entry in the manifest.
    deep: whether to compare the content in addition to the size.
  """
  wanted = facts['sha256'] if deep else None
  return _fault(os.path.join(folder, facts['file']), facts['bytes'], wanted)


def changed(folder: str, files: Mapping[str, str]) -> list[str]:
  """Returns a line on each file that is missing or was changed.

  Args:
    folder: the cache's folder.
    files: SHA-256 by name.
  """
  faults = {
    name: _fault(os.path.join(folder, name), None, wanted)
    for name, wanted in sorted(files.items())
  }
  return [f'{name} {fault}' for name, fault in faults.items() if fault]


def _fault(path, wanted_bytes, wanted_sha256):
  """Returns the problem of a file, or ''; a None is not compared."""
  try:
    size = os.path.getsize(path)
    if wanted_bytes is not None and size != wanted_bytes:
      return f'has {size} bytes, {wanted_bytes} were written'
    if (
      wanted_sha256 is not None and identity.file_digest(path) != wanted_sha256
    ):
      return 'does not match its recorded SHA-256'
  except FileNotFoundError:
    return 'is missing'
  except OSError as e:
    return f'cannot be read: {e.strerror}'
  return ''


def unknown_files(folder: str, plan: Sequence[Shard]) -> list[str]:
  """Returns the names of shards in a folder that are not in the plan."""
  legal = {shard.name for shard in plan}
  return sorted(
    name
    for name in os.listdir(folder)
    if name.startswith(_PREFIX) and name.endswith(_SUFFIX) and name not in legal
  )


def remove_temporary_files(folder: str) -> None:
  """Removes the files that only an incomplete cache needs."""
  for name in os.listdir(folder):
    if name.startswith(_PREFIX) and not name.endswith(_SUFFIX):
      os.unlink(os.path.join(folder, name))


def read_records(folder: str, facts: dict[str, Any]) -> Iterator[bytes | None]:
  """Yields each record of a file that may be damaged; None if unreadable."""
  try:
    reader = array_record_module.ArrayRecordReader(
      os.path.join(folder, facts['file'])
    )
  except Exception:  # array_record has its own exception classes.
    yield from [None] * facts['rows']
    return
  for index in range(facts['rows']):
    try:
      yield reader.read([index])[0]
    except Exception:  # As above.
      yield None
  with contextlib.suppress(Exception):  # The file may be truncated.
    reader.close()
