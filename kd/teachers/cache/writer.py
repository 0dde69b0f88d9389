"""Writes a cache of teacher targets, and repairs a damaged one."""

from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import progress as progress_lib
from kd.core import run_info
from kd.input_pipeline import prepare as prepare_lib
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import tokenizers
from kd.partitioning import placement
from kd.partitioning import processes
from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import reader
from kd.teachers.cache import report
from kd.teachers.cache import row_assignment as assignment_lib
from kd.teachers.cache import scorer as scorer_lib
from kd.teachers.cache import shard_writer
from kd.teachers.cache import shards

_PATH = 'cache.folder'
_AHEAD = 2  # Batches that are scored ahead of the one being written.


@dataclasses.dataclass(frozen=True)
class CacheJob:
  """The contents of a cache and the settings of its writer.

  Attributes:
    folder: folder of the cache, locked by this run while it writes.
    request: the settings and rows that determine the cache's contents; recorded
      in its manifest.
    prepared: the rows of each task.
    length: L, number of tokens per row.
    scorer: scorer of the rows.
    teacher_names: names of the teachers, for messages.
    method: the compression method.
    tokenizer: tokenizer of the rows, whose files are written too.
    vocab_size: V of the student.
    shard_rows: number of rows per file.
    batch_size: number of rows scored at a time.
    say: function called with a line for the user.
  """

  folder: str
  request: Mapping[str, Any]
  prepared: Sequence[prepare_lib.Prepared]
  length: int
  scorer: scorer_lib.Scorer
  teacher_names: Sequence[str]
  method: compression.Method
  tokenizer: tokenizers.Tokenizer
  vocab_size: int
  shard_rows: int
  batch_size: int
  say: progress_lib.Say

  @property
  def plan(self) -> list[shards.Shard]:
    """The shards of the rows."""
    rows = sum(task_rows.counts['rows'] for task_rows in self.prepared)
    return shards.plan(rows, self.shard_rows)


def is_complete(folder: str) -> bool:
  """Returns whether process 0 finds a complete cache."""
  return processes.from_first(
    lambda: os.path.exists(os.path.join(folder, manifest_lib.FILE))
  )


def write(job: CacheJob) -> float:
  """Writes the missing shards of a cache, then its manifest.

  Args:
    job: the cache.

  Returns:
    Tokens per second over all processes, excluding the first batch.

  Raises:
    ConfigError: the folder contains another, incomplete cache.
    NonFiniteError: the teacher's logits are not finite.
  """
  plan = job.plan

  def begin():
    with errors.refused_unless_writable(
      _PATH, job.folder, 'a folder that this user can write'
    ):
      manifest_lib.begin(job.folder, job.request, _PATH)
      found = [shards.facts(job.folder, shard) for shard in plan]
    # Files of another plan come from another shard_rows or number of rows.
    strange = shards.unknown_files(job.folder, plan)
    if strange:
      raise errors.ConfigError(
        _PATH,
        f'{job.folder!r} contains {strange[0]!r}, which does not belong to '
        f'{len(plan)} shards of {job.shard_rows} rows',
        legal='the original cache.shard_rows, or a new folder',
      )
    return [n for n, facts in enumerate(found) if facts is None]

  missing = processes.from_first(begin)
  rate = _score(job, [plan[n] for n in missing], job.request)
  _publish(job)
  return rate


def _publish(job):
  table = None if job.method.entries else job.scorer.table()

  def publish():
    facts = [shards.facts(job.folder, shard) for shard in job.plan]
    files = _write_files(job, table)
    manifest_lib.publish(job.folder, job.request, facts, files)
    shards.remove_temporary_files(job.folder)

  _all_have_written(job.folder)
  processes.from_first(publish)


def _write_files(job, table):
  """Writes the files other than shards; returns their SHA-256 by name."""
  names = job.tokenizer.files()
  atomic_files.write_all(job.folder, names)
  files = {
    name: identity.file_digest(os.path.join(job.folder, name)) for name in names
  }
  if table is not None:
    digest = reader.write_unembedding(job.folder, table[: job.vocab_size])
    files[reader.UNEMBEDDING] = digest
  return files


def _all_have_written(folder):
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('kd/cache')
    # Other processes have uploaded their files to a bucket.
    processes.from_first(lambda: buckets.refresh(folder))


def _score(job, wanted, request):
  """Scores the rows of the wanted shards and writes them."""
  mesh, size = job.scorer.mesh, job.batch_size
  assignment = assignment_lib.RowAssignment(mesh, size, wanted)
  writer = shard_writer.ShardWriter(
    job.folder,
    assignment.shards,
    job.method,
    job.vocab_size,
    job.teacher_names,
    manifest_lib.cache_digest(request),
  )
  rows, mine = rows_lib.Numbered(job.prepared), placement.local_rows(mesh, size)
  progress = progress_lib.Progress(
    'cache', job.say, assignment.rows, 'rows', tokens=job.length
  )

  def write(batch, begun, slots, count):
    scored = job.scorer.finish(begun)
    for at in np.searchsorted(mine, slots):
      writer.add(batch, scored, int(at))
    progress.add(count)

  pending = []
  with progress, futures.ThreadPoolExecutor(1, 'cache') as pool:
    for numbers in assignment.batches():
      batch = rows(numbers[mine])
      begun = job.scorer.begin(batch)
      # This batch is packed and written while the next one is scored.
      slots, count = assignment.own(numbers), int((numbers >= 0).sum())
      pending.append(pool.submit(write, batch, begun, slots, count))
      if len(pending) > _AHEAD:
        pending.pop(0).result()
    for future in pending:
      future.result()
  return progress.per_s


def check(job: CacheJob, repair: bool) -> None:
  """Checks a complete cache.

  Args:
    job: the expected contents of the cache.
    repair: whether to write damaged files again.

  Raises:
    ConfigError: the cache has other contents, or is damaged.
    NonFiniteError: the teacher's logits are not finite.
  """
  manifest = manifest_lib.read(job.folder, _PATH)
  manifest_lib.check(manifest['request'], job.request, job.folder, _PATH)

  def look():
    # A run killed right after publishing leaves temporary files.
    shards.remove_temporary_files(job.folder)
    return report.problems(job.folder, manifest)

  broken, lines = processes.from_first(look)
  date = run_info.date(os.path.join(job.folder, manifest_lib.FILE))
  job.say(f'{job.folder}: written {date}, the targets of this teacher')
  if not lines:
    return
  if not repair:
    raise errors.ConfigError(
      _PATH,
      f'{job.folder!r} is damaged:\n  ' + '\n  '.join(lines),
      legal='the unchanged files; --config.cache.repair=True rewrites them',
    )
  for line in lines:
    job.say(line)
  _repair(job, manifest, broken)
  job.say(f'{job.folder}: damaged files were rewritten')


def _repair(job, manifest, broken):
  plan = [
    shards.Shard(n, len(manifest['shards']), facts['first_row'], facts['rows'])
    for n, facts in enumerate(manifest['shards'])
  ]
  _score(job, [plan[n] for n in broken], manifest['request'])
  table = None if job.method.entries else job.scorer.table()
  _all_have_written(job.folder)

  def publish():
    facts = list(manifest['shards'])
    for n in broken:
      facts[n] = shards.facts(job.folder, plan[n])
    files = manifest['files']
    if shards.changed(job.folder, files):
      files = _write_files(job, table)
    manifest_lib.publish(job.folder, manifest['request'], facts, files)
    shards.remove_temporary_files(job.folder)

  processes.from_first(publish)
