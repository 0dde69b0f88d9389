"""--mode=cache: computes, checks or repairs a cache of teacher targets."""

from collections.abc import Callable, Sequence
from concurrent import futures
import dataclasses
import os
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import paths
from kd.core import progress as progress_lib
from kd.core import run_info
from kd.input_pipeline import prepare as prepare_lib
from kd.input_pipeline import rows as rows_lib
from kd.partitioning import placement
from kd.partitioning import processes
from kd.partitioning import rules
from kd.teachers import cached
from kd.teachers import compression
from kd.teachers import live
from kd.teachers import manifest as manifest_lib
from kd.teachers import param_digest
from kd.teachers import row_assignment as assignment_lib
from kd.teachers import scoring
from kd.teachers import shard_writer
from kd.teachers import shards
from kd.teachers import teacher_files
from kd.train import cache_report
from kd.train import lock
from kd.train import resolved
from kd.train import training_rows
from kd.train.feeds import cached as cached_feed
from kd.train.feeds import feed
from kd.train.feeds import live as live_feed

_PATH = 'cache.folder'
_AHEAD = 2  # batches scored ahead of the one being written


@dataclasses.dataclass(frozen=True)
class CacheJob:
  """What to write to a cache, and where.

  Attributes:
    run: with a live teacher.
    parts: the rows.
    method: what is kept.
    folder: where.
    say: called with a line for the user.
  """

  run: resolved.Run
  parts: Sequence[prepare_lib.Prepared]
  method: compression.Method
  folder: str
  say: progress_lib.Say

  @property
  def wanted(self) -> dict[str, Any]:
    """Returns the cache's identity, without the teacher's parameters."""
    config = self.run.config
    return {
      **cached_feed.request(self.run, self.parts),
      'method': config.cache.method.to_dict(),
      'temperature': 1.0,
      'seed': config.seed,
    }

  @property
  def plan(self) -> list[shards.Shard]:
    rows = sum(part.counts['rows'] for part in self.parts)
    return shards.plan(rows, self.run.config.cache.shard_rows)


def cache(run: resolved.Run, workdir: str, say: progress_lib.Say) -> None:
  """Writes the cache, or reports on the one that is there; see docs/cache.md.

  Args:
    run: with a live teacher.
    workdir: where the report goes.
    say: called with a line for the user.

  Raises:
    ConfigError: the cache holds something else, is damaged, or does not belong
      to its rows; or its folder can't be written.
    NonFiniteError: the teacher's logits are not finite.
  """
  config = run.config
  method = compression.METHODS.build(
    config.cache.method.to_dict(), 'cache.method'
  )
  _check(run, method)
  folder = paths.expand(config.cache.folder)
  job = CacheJob(run, training_rows.prepare(run, say), method, folder, say)
  with lock.shared(folder, _PATH, say):
    whole = processes.from_first(
      lambda: os.path.exists(os.path.join(folder, manifest_lib.FILE))
    )
    # Before they are loaded: files that change during scoring are
    # then noticed when training from the cache.
    files = processes.from_first(
      lambda: teacher_files.describe(
        cached_feed.teacher_inits(config), paths.expand(config.data.folder)
      )
    )
    # Also for a complete cache: its targets must be this teacher's.
    teachers = live_feed.load(run)
    if whole:
      _check_whole(job, teachers)
    else:
      write(job, teachers)
    processes.from_first(lambda: teacher_files.record(folder, files))
    found = cached_feed.open_cache(run, job.parts)
    cache_report.report(found, job.parts, workdir, say)
    if config.cache.verify:
      _verify(job, teachers, found)


def _check(run, method):
  if not run.config.cache.folder:
    raise errors.ConfigError(_PATH, "found ''", legal='a folder')
  if not run.teachers:
    raise errors.ConfigError(
      'teacher.source',
      f'found {run.config.teacher.source!r}: there is no teacher to score rows',
      legal="'live', 'on_policy' or 'cached', with teacher.init",
    )
  parts = rules.row_parts(run.teacher.mesh)
  if run.config.cache.batch_size % parts:
    raise errors.ConfigError(
      'cache.batch_size',
      f'found {run.config.cache.batch_size}, which {parts} devices '
      "(data x fsdp of the teacher's mesh) do not divide",
      legal=f'a multiple of {parts}',
    )
  if not method.entries and len(run.teachers) > 1:
    raise errors.ConfigError(
      'cache.method.name',
      f'found {method.name!r}, and there are {len(run.teachers)} teachers',
      legal='top_k, nucleus, sampled, stratified, or one teacher',
    )


def _request(job: CacheJob, teachers: Sequence[live.Teacher]) -> dict[str, Any]:
  """Returns the request: all that decides what the cache holds."""
  described = [
    {
      'digest': param_digest.of(loaded.params),
      'share': teacher.weight,
      'dtype': str(np.dtype(teacher.model.module.dtype)),
      'param_dtype': teacher.model.param_dtype,
      **dataclasses.asdict(teacher.model.config),
    }
    for loaded, teacher in zip(teachers, job.run.teachers, strict=True)
  ]
  return {**job.wanted, 'teachers': described}


def write(job: CacheJob, teachers: Sequence[live.Teacher]) -> float:
  """Writes the missing shards of a cache, then its manifest.

  Args:
    job: the cache; its folder is locked by this run.
    teachers: score the rows.

  Returns:
    Tokens per second over all processes, without the first batch.

  Raises:
    ConfigError: the folder contains another, incomplete cache.
    NonFiniteError: the teacher's logits are not finite.
  """
  request, plan = _request(job, teachers), job.plan

  def begin():
    with errors.refused_unless_writable(
      _PATH, job.folder, 'a folder that this user can write'
    ):
      manifest_lib.begin(job.folder, request, _PATH)
      found = [shards.facts(job.folder, shard) for shard in plan]
    # Another shard_rows, or more rows, would leave files of another plan.
    strange = shards.unknown_files(job.folder, plan)
    if strange:
      raise errors.ConfigError(
        _PATH,
        f'{job.folder!r} holds {strange[0]!r}, which is no file of '
        f'{len(plan)} shards of {job.run.config.cache.shard_rows} rows',
        legal='the cache.shard_rows that it was begun with, or a new folder',
      )
    return [n for n, facts in enumerate(found) if facts is None]

  missing = processes.from_first(begin)
  rate = _score(job, teachers, [plan[n] for n in missing], request)
  _publish(job, request, teachers)
  return rate


def _publish(job, request, teachers):
  table = _table(job, teachers)

  def publish():
    facts = [shards.facts(job.folder, shard) for shard in job.plan]
    manifest_lib.publish(job.folder, request, facts, _write_files(job, table))
    shards.remove_temporary_files(job.folder)

  _all_have_written()
  processes.from_first(publish)


def _table(job, teachers):
  """Returns the teacher's unembedding if the cache keeps hidden states."""
  if job.method.entries:
    return None
  table = teachers[0].model.unembedding(teachers[0].params)
  if jax.process_count() > 1:
    table = multihost_utils.process_allgather(table, tiled=True)
  return np.asarray(table)


def _write_files(job, table):
  """Writes the files other than shards; returns their SHA-256 by name."""
  names = job.run.tokenizer.files()
  atomic_files.write_all(job.folder, names)
  files = {
    name: identity.file_digest(os.path.join(job.folder, name)) for name in names
  }
  if table is not None:
    size = job.run.student.config.vocab_size
    digest = cached.write_unembedding(job.folder, table[:size])
    files[cached.UNEMBEDDING] = digest
  return files


def _all_have_written():
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('kd/cache')


def _score(job, teachers, wanted, request):
  """Scores the rows of some shards with the teacher and writes them."""
  config = job.run.config
  mesh = job.run.teacher.mesh
  size = config.cache.batch_size
  assignment = assignment_lib.RowAssignment(mesh, size, wanted)
  writer = shard_writer.ShardWriter(
    job.folder,
    assignment.shards,
    job.method,
    job.run.student.config.vocab_size,
    feed.source(job.run.config).teacher_names(),
    manifest_lib.cache_digest(request),
  )
  score = scorer(job, teachers)
  rows, mine = rows_lib.Numbered(job.parts), placement.local_rows(mesh, size)
  progress = progress_lib.Progress(
    'cache', job.say, assignment.rows, 'rows', tokens=config.data.length
  )

  def write(batch, scored, slots, count):
    found = placement.fetch(scored, mesh, size)
    for at in np.searchsorted(mine, slots):
      writer.add(batch, found, int(at))
    progress.add(count)

  pending = []
  with progress, futures.ThreadPoolExecutor(1, 'cache') as pool:
    for numbers in assignment.batches():
      batch = rows(numbers[mine])
      scored = score(placement.place(batch, mesh, size))
      # While the next batch is scored, this one is packed and written.
      slots, count = assignment.own(numbers), int((numbers >= 0).sum())
      pending.append(pool.submit(write, batch, scored, slots, count))
      if len(pending) > _AHEAD:
        pending.pop(0).result()
    for future in pending:
      future.result()
  return progress.per_s


def scorer(
  job: CacheJob, teachers: Sequence[live.Teacher]
) -> Callable[[Any], scoring.Scored]:
  """Returns the function that scores a batch."""
  config = job.run.config
  size = job.run.student.config.vocab_size
  if job.method.entries:
    # Unembedding rows beyond the tokenizer's ids are padding.
    size = job.run.tokenizer.vocab_size
  return scoring.make(
    teachers,
    job.method,
    size,
    config.objective.chunk_tokens,
    config.seed,
  )


def _check_whole(job, teachers):
  """Checks a complete cache; with `cache.repair`, rewrites damaged files."""
  manifest = manifest_lib.read(job.folder, _PATH)
  wanted = _request(job, teachers)
  manifest_lib.check(manifest['request'], wanted, job.folder, _PATH)

  def look():
    # A run killed right after publishing leaves temporary files.
    shards.remove_temporary_files(job.folder)
    return cache_report.problems(job.folder, manifest)

  broken, lines = processes.from_first(look)
  date = run_info.date(os.path.join(job.folder, manifest_lib.FILE))
  job.say(f'{job.folder}: written {date}, the targets of this teacher')
  if not lines:
    return
  if not job.run.config.cache.repair:
    raise errors.ConfigError(
      _PATH,
      f'{job.folder!r} is damaged:\n  ' + '\n  '.join(lines),
      legal='the files as they were written; '
      '--config.cache.repair=True makes these again',
    )
  for line in lines:
    job.say(line)
  _repair(job, teachers, manifest, broken)
  job.say(f'{job.folder}: damaged files were rewritten')


def _repair(job, teachers, manifest, broken):
  plan = [
    shards.Shard(n, len(manifest['shards']), facts['first_row'], facts['rows'])
    for n, facts in enumerate(manifest['shards'])
  ]
  _score(job, teachers, [plan[n] for n in broken], manifest['request'])
  table = _table(job, teachers)
  _all_have_written()

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


def _verify(job, teachers, found):
  """Scores random rows again and compares them with the cache."""
  config = job.run.config
  mesh = job.run.teacher.mesh
  size = config.cache.batch_size
  mine = placement.local_rows(mesh, size)
  rows, score = rows_lib.Numbered(job.parts), scorer(job, teachers)
  # New rows at each call, the same in every process.
  seed = processes.from_first(lambda: time.time_ns())
  chosen = np.random.default_rng(seed).permutation(len(rows))
  chosen = chosen[: config.cache.verify]
  comparison = cache_report.Comparison(job.method)
  for first in range(0, len(chosen), size):
    numbers = np.full(size, -1)
    part = chosen[first : first + size]
    numbers[: len(part)] = part
    batch = rows(numbers[mine])
    scored = placement.fetch(
      score(placement.place(batch, mesh, size)), mesh, size
    )
    for at, number in enumerate(numbers[mine]):
      if number >= 0:
        comparison.add(
          found.row_of(batch, at), shard_writer.row_of(batch, scored, at)
        )
  comparison.say(job.say, len(chosen))
