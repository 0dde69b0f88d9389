"""Prepares shards on the cores of this machine, and possibly of others.

Processes that share the folder divide the shards. Each reads all examples,
prepares the shards that no other process has claimed, and finally waits for the
rest. Reading is cheap compared with encoding.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import os
import time
from typing import Any

from kd.core import atomic_files
from kd.core import durations
from kd.core import plugins
from kd.core import progress
from kd.input_pipeline import claims as claims_lib
from kd.input_pipeline import shard_files
from kd.input_pipeline import shard_worker
from kd.input_pipeline import shard_workers
from kd.input_pipeline import shards as shards_lib
from kd.input_pipeline import tokenizers

_TOKENIZER = 'tokenizer'  # Folder of the tokenizer's files.

# Maps a task to the counts of its shards, see shard_files.write.
Counts = dict[str, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Job:
  """Describes the rows to prepare.

  Attributes:
    folder: folder for the shards' files.
    request: see prepare.prepare.
    tokenizer: tokenizer of the texts.
    shards_of: functions, by task, that iterate over the task's shards.
    sizes: number of examples by task; None where unknown.
    say: prints a line of progress.
    on_large: called before the second of several shards is prepared.
  """

  folder: str
  request: dict[str, Any]
  tokenizer: tokenizers.Tokenizer
  shards_of: Mapping[str, Callable[[], Iterator[shards_lib.Shard]]]
  sizes: Mapping[str, int | None]
  say: progress.Say
  on_large: Callable[[], None]

  def setup(self) -> shard_worker.Setup:
    """Writes the tokenizer for other processes; returns their setup."""
    where = os.path.join(self.folder, _TOKENIZER)
    os.makedirs(where, exist_ok=True)
    atomic_files.write_all(where, self.tokenizer.files())
    return shard_worker.Setup(
      self.folder, self.request, where, tuple(plugins.loaded())
    )


def prepare(job: Job, claims: claims_lib.Claims, workers: int) -> Counts:
  """Prepares all shards.

  Args:
    job: the rows to prepare.
    claims: claims of this process in the job's folder.
    workers: number of worker processes; 1, or a single shard, uses none but
      this one.

  Raises:
    ConfigError: the data are invalid.
    FileNotFoundError: another process has completed the folder and renamed it.
    WorkerError: a worker process has died.
  """
  run = _Run(job, claims, workers)
  while run.read():
    run.wait()
  return run.counts()


class _Run:
  """The state of each shard."""

  def __init__(self, job, claims, workers):
    self._job, self._claims, self._workers = job, claims, workers
    self._digests: dict[tuple[str, int], tuple[str, str]] = {}
    self._done: dict[tuple[str, int], dict[str, Any]] = {}
    self._report = _Report(job)

  def counts(self) -> Counts:
    return {
      task: [self._done[key] for key in sorted(self._done) if key[0] == task]
      for task in self._job.shards_of
    }

  def read(self) -> bool:
    """Reads all examples and prepares the shards that this process can claim.

    Returns:
      Whether shards that other processes claim are incomplete.
    """
    self._digests.clear()
    with contextlib.ExitStack() as stack:
      submit, pending = None, {}
      held = None
      for shard in self._unclaimed():
        if held is None and submit is None:
          held = shard  # A single shard needs no workers.
          continue
        if submit is None:
          submit = self._start(stack)
          pending[submit(held)] = held
          held = None
        if len(pending) == max(self._workers, 1):
          self._collect(pending, futures.FIRST_COMPLETED)
        pending[submit(shard)] = shard
      if held is not None and submit is None:
        pending[_at_once(self._write, held)] = held
      self._collect(pending, futures.ALL_COMPLETED)
    return self._missing() != {}

  def _start(self, stack):
    """Returns a function that prepares a shard and returns a future."""
    self._job.on_large()
    if self._workers == 1:
      return lambda shard: _at_once(self._write, shard)
    return stack.enter_context(
      shard_workers.Workers(self._job.setup(), self._workers)
    ).submit

  def _write(self, shard):
    job = self._job
    return shard_files.write(job.folder, shard, job.request, job.tokenizer)

  def _unclaimed(self):
    """Yields the shards that this process has claimed."""
    for task, shards in self._job.shards_of.items():
      for shard in shards():
        key = task, shard.number
        self._digests[key] = shard.name, shard.digest
        known = self._done.get(key)
        if known and known['data_sha256'] == shard.digest:
          continue
        if not self._find(key) and self._claims.take(shard.name):
          # Another process may have completed it in the meantime.
          if self._find(key):
            self._claims.release(shard.name)
          else:
            yield shard

  def _find(self, key):
    """Returns whether a shard is complete; records its counts if so."""
    counts = shard_files.finished(self._job.folder, *self._digests[key])
    if counts is not None:
      self._done[key] = counts
      self._report.reuse(key, counts)
    return counts is not None

  def _collect(self, pending, when):
    done, _ = futures.wait(pending, return_when=when)
    for future in done:
      shard = pending.pop(future)
      counts = future.result()
      shard_files.upload(self._job.folder, shard.name)
      self._done[shard.task, shard.number] = counts
      self._claims.release(shard.name)
      self._report.add(shard.task, counts)

  def _missing(self):
    return {k: x for k, x in self._digests.items() if k not in self._done}

  def wait(self) -> None:
    """Waits until each missing shard is complete or its claim is free."""
    mine: set[tuple[str, int]] = set()
    while others := self._missing().keys() - mine:
      for key in others:
        if not self._find(key) and self._claims.take(self._digests[key][0]):
          mine.add(key)
      time.sleep(self._claims.poll_s)
    for key in mine:
      self._claims.release(self._digests[key][0])


def _at_once(call, *arguments) -> futures.Future:
  """Calls a function and returns its result as a completed future."""
  future: futures.Future = futures.Future()
  future.set_result(call(*arguments))
  return future


class _Report:
  """Prints the progress of a task every few seconds."""

  def __init__(self, job: Job):
    self._job = job
    self._began = self._last = time.monotonic()
    self._lines = self._tokens = self._prepared = 0
    self._examples: dict[str, int] = dict.fromkeys(job.shards_of, 0)

  def reuse(self, key, counts):
    """Counts a shard that was already complete."""
    self._examples[key[0]] += counts['examples']

  def add(self, task, counts):
    """Counts a shard that this process has prepared."""
    self._examples[task] += counts['examples']
    self._tokens += counts['tokens']
    self._prepared += counts['examples']
    now = time.monotonic()
    if now - self._last < progress.interval_s(self._lines):
      return
    self._last, self._lines = now, self._lines + 1
    speed = self._tokens / (now - self._began)
    done, size = self._examples[task], self._job.sizes[task]
    line = f'{task}: {done:,} examples, {speed:,.0f} tokens/s'
    if size:
      left = (now - self._began) * (size - done) / self._prepared
      line = f'{task}: {done:,}/{size:,} examples, {speed:,.0f} tokens/s'
      line += f'  ETA {durations.clock(left)}'
    self._job.say(line)
