"""The files of a cache: each holds the records of some rows in order."""

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
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.core import run_info

# One record a group, so that a read touches no other row.
_OPTIONS = 'group_size:1,brotli:6'
_BEGINNING, _ENDING = 'targets-', '.array_record'

# What the facts of a file say of its targets.
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
          rf'{_BEGINNING}\d{{5,}}-of-\d{{5,}}{re.escape(_ENDING)}',
          f'{_BEGINNING}N-of-M{_ENDING}',
        ),
        'first_row': _LARGE,
        'rows': legal.Integer(1, 2**62),
        'bytes': _LARGE,
        'sha256': legal.Matching('[0-9a-f]{64}', '64 hex digits'),
      }
    ),
    'statistics': schema.Section(
      'Sums over its targets.',
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
    number: of the file, from 0.
    count: of files.
    first_row: the row_id of its first record.
    rows: how many records it has.
  """

  number: int
  count: int
  first_row: int
  rows: int

  @property
  def name(self) -> str:
    return f'{_BEGINNING}{self.number:05d}-of-{self.count:05d}{_ENDING}'

  def path(self, folder: str) -> str:
    return os.path.join(folder, self.name)

  def facts_path(self, folder: str) -> str:
    """Of what is said of the file before the cache is whole."""
    return os.path.join(folder, self.name.partition('.')[0] + '.json')


def plan(rows: int, shard_rows: int) -> list[Shard]:
  """The files of `rows` rows."""
  count = -(-rows // shard_rows)
  return [
    Shard(n, count, n * shard_rows, min(shard_rows, rows - n * shard_rows))
    for n in range(count)
  ]


class Writer:
  """Writes one file aside, and renames it when it is whole."""

  def __init__(self, folder: str, shard: Shard):
    self._folder, self._shard = folder, shard
    self._aside = shard.path(folder) + '.tmp'
    # The writer would add to what a killed process left.
    if os.path.exists(self._aside):
      os.unlink(self._aside)
    with failing_as_kd(self._aside):
      self._writer = array_record_module.ArrayRecordWriter(
        self._aside, _OPTIONS
      )
    self._written = 0

  def write(self, record: bytes) -> None:
    """Adds a record.

    Raises:
      KdError: the disk is full or fails.
    """
    with failing_as_kd(self._aside):
      self._writer.write(record)
    self._written += 1

  def finish(self, statistics: dict[str, float]) -> None:
    """Names the file; whoever finds its facts finds it whole.

    Args:
      statistics: of its rows, kept with its digest.

    Raises:
      KdError: the disk is full or fails: the file has no name then.
      OSError: likewise.
    """
    shard = self._shard
    if self._written != shard.rows:
      raise ValueError(f'{self._written} of {shard.rows} rows were written')
    with failing_as_kd(self._aside):
      self._writer.close()
      run_info.sync(self._aside)
      # Read back: what the disk has, not what was meant.
      reader = array_record_module.ArrayRecordReader(self._aside)
      with contextlib.closing(reader):
        found = reader.num_records()
    if found != shard.rows:
      raise errors.KdError(
        f'{self._aside}: {found} of {shard.rows} rows are on the disk'
      )
    facts = {
      'file': shard.name,
      'first_row': shard.first_row,
      'rows': shard.rows,
      'bytes': os.path.getsize(self._aside),
      'sha256': identity.file_digest(self._aside),
      'statistics': statistics,
    }
    os.replace(self._aside, shard.path(self._folder))
    run_info.write_json(shard.facts_path(self._folder), facts)


@contextlib.contextmanager
def failing_as_kd(path: str) -> Iterator[None]:
  """Within it, what a library raises of its own is a KdError about the file."""
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
  """Reads the facts of a complete file; None if it must be written again."""
  path = shard.facts_path(folder)
  try:
    record = json_files.read(path)
    config_check.check_node(FACTS, record, path)
    size = os.path.getsize(shard.path(folder))
  except (FileNotFoundError, errors.ConfigError):
    return None
  return record if size == record['bytes'] else None


def problem(folder: str, facts: dict[str, Any], deep: bool) -> str:
  """What is wrong with a file; '' if nothing is.

  Args:
    folder: of the cache.
    facts: what its manifest says of the file.
    deep: reads the file whole; else its size alone is looked at.
  """
  wanted = facts['sha256'] if deep else None
  return _fault(os.path.join(folder, facts['file']), facts['bytes'], wanted)


def changed(folder: str, files: Mapping[str, str]) -> list[str]:
  """A line about each file that is not as it was written.

  Args:
    folder: of the cache.
    files: SHA-256 by name.
  """
  found = {
    name: _fault(os.path.join(folder, name), None, wanted)
    for name, wanted in sorted(files.items())
  }
  return [f'{name} {fault}' for name, fault in found.items() if fault]


def _fault(path, wanted_bytes, wanted_sha256):
  """What is wrong with a file; what is None is not looked at."""
  try:
    size = os.path.getsize(path)
    if wanted_bytes is not None and size != wanted_bytes:
      return f'has {size} bytes, {wanted_bytes} were written'
    if (
      wanted_sha256 is not None and identity.file_digest(path) != wanted_sha256
    ):
      return 'has other bytes than were written'
  except FileNotFoundError:
    return 'is missing'
  except OSError as e:
    return f'cannot be read: {e.strerror}'
  return ''


def strangers(folder: str, plan: Sequence[Shard]) -> list[str]:
  """Names of files of a cache that are in no such plan."""
  legal = {shard.name for shard in plan}
  return sorted(
    name
    for name in os.listdir(folder)
    if name.startswith(_BEGINNING)
    and name.endswith(_ENDING)
    and name not in legal
  )


def tidy(folder: str) -> None:
  """Removes what only a cache that is being written needs."""
  for name in os.listdir(folder):
    if name.startswith(_BEGINNING) and not name.endswith(_ENDING):
      os.unlink(os.path.join(folder, name))


def records(folder: str, facts: dict[str, Any]) -> Iterator[bytes | None]:
  """Each record of a file that may be damaged; None for what can't be read."""
  try:
    reader = array_record_module.ArrayRecordReader(
      os.path.join(folder, facts['file'])
    )
  except Exception:  # array_record raises kinds of its own.
    yield from [None] * facts['rows']
    return
  for index in range(facts['rows']):
    try:
      yield reader.read([index])[0]
    except Exception:  # As above.
      yield None
  with contextlib.suppress(Exception):  # Of a file that was cut off.
    reader.close()
