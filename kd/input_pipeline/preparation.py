"""Prepares the rows of a request: shards, their manifest, a folder's name."""

from collections.abc import Callable, Iterator
import dataclasses
import datetime
import functools
import os
from typing import Any

from kd.core import errors
from kd.core import identity
from kd.input_pipeline import embedded
from kd.input_pipeline import examples as examples_lib
from kd.input_pipeline import file_digests
from kd.input_pipeline import mixtures
from kd.input_pipeline import opened_files
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import retry
from kd.input_pipeline import shard_files
from kd.input_pipeline import shards
from kd.input_pipeline import skipping
from kd.input_pipeline import task_code
from kd.input_pipeline import task_files
from kd.input_pipeline import tokenizers
from kd.input_pipeline import work_folders


@dataclasses.dataclass(frozen=True)
class Preparation:
  """Rows of a request that are not there yet.

  Attributes:
    stem: what the names of folders with this request begin with.
    mixture: the tasks and files.
    request: all that rows depend on but the data, see prepare.prepare.
    code: the module's source files.
    digests: gives the digests of files.
    tokenizer: encodes the texts.
    retry_policy: with a source that cannot be read.
    workers: number of processes.
    on_large: called once it is known that there are several shards to prepare.
    say: prints lines of progress.
    skipped: by task, what takes its wrong examples.
  """

  stem: str
  mixture: mixtures.Mixture
  request: dict[str, Any]
  code: task_code.TaskCode
  digests: file_digests.Digests
  tokenizer: tokenizers.Tokenizer
  retry_policy: retry.RetryPolicy
  workers: int
  on_large: Callable[[], None]
  say: Callable[[str], None]
  skipped: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def parent(self) -> str:
    return os.path.dirname(self.stem)

  def write(self) -> str:
    """Writes a folder of rows; returns its name."""
    with errors.refused_unless_writable(
      'data.folder',
      self.parent,
      'a folder that this user can write, or one with these rows',
    ):
      os.makedirs(self.parent, exist_ok=True)
      work_folders.remove_old(self.parent)
    split = self.request['split']
    pairs = examples_lib.tasks(self.mixture, split)
    tasks = [task for task, _ in pairs]
    before = task_files.describe(tasks, split, self.code, self.digests, ())
    key = identity.digest([self.request, before])
    while True:
      try:
        with work_folders.entered(self.parent, key) as (folder, claims):
          return self._write_in(folder, claims, pairs, before)
      except work_folders.GoneError:
        done = prepared_lib.reusable(self.stem, self.code, self.digests)
        if done is not None:
          return done

  def _write_in(self, folder, claims, pairs, before) -> str:
    """Writes the rows of every task, then renames the folder."""
    job = embedded.Job(
      folder,
      self.request,
      self.tokenizer,
      {task.name: functools.partial(self._shards, task) for task, _ in pairs},
      {task.name: self._size(task) for task, _ in pairs},
      self.say,
      self.on_large,
    )
    counts = embedded.prepare(job, claims, self.workers)
    claims.wait(prepared_lib.MANIFEST)
    parts = [
      {'task': task.name, 'rate': rate}
      | self._total(task, counts[task.name])
      | {'skipped': self._skipped_of(task)}
      for task, rate in pairs
    ]
    now = datetime.datetime.now(datetime.UTC)
    manifest = {
      'request': self.request,
      'prepared': now.isoformat(timespec='microseconds'),
      'sources': self._sources([task for task, _ in pairs], before),
      'parts': parts,
    }
    digest = identity.digest([manifest['parts'], manifest['sources']])
    rows = f'{self.stem}-{digest}'
    names = [
      f'{shards.name(part["task"], number)}{kind}'
      for part in parts
      for number in range(len(part['shards']))
      for kind in (shard_files.ROWS, shard_files.EXAMPLES)
    ]
    prepared_lib.write_manifest(folder, manifest)
    work_folders.rename(folder, rows, [*names, prepared_lib.MANIFEST])
    return rows

  def _shards(self, task) -> Iterator[shards.Shard]:
    split, limit = self.request['split'], self.request['limit']

    def read():
      # Of the last reading, if there are several.
      skipped = skipping.taker(self.request['on_error'])
      self.skipped[task.name] = skipped
      return examples_lib.stream(
        task, split, self.mixture.module, limit, lambda line: None, skipped
      )

    examples = self.retry_policy.stream(
      f'task {task.name!r}, split {split!r}', read
    )
    return shards.divide(task.name, examples)

  def _skipped_of(self, task) -> dict[str, Any]:
    """Returns the record of a task's wrong examples, and says it."""
    skipped = self.skipped[task.name]
    if skipped is None or not skipped.count:
      return {}
    self.say(f'{task.name}: {skipped.line()}')
    return skipped.record()

  def _size(self, task) -> int | None:
    """Returns the number of a task's examples, if it is known."""
    size = task.num_input_examples(self.request['split'])
    limit = self.request['limit']
    return size if size is None or limit < 0 else min(size, limit)

  def _total(self, task, counts) -> dict[str, Any]:
    """Returns a task's counts; says what is left out.

    Raises:
      ConfigError: every example is longer than a row.
    """
    length = self.request['length']
    total = shard_files.total(counts, length)
    if not total['rows']:
      raise errors.ConfigError(
        'data.length',
        f'{length} is too short for every example of {task.name!r}',
        legal=f'{min(c["shortest"] for c in counts)} or more',
      )
    if total['too_long']:
      named = ', '.join(total['too_long_ids'])
      more = ', ...' if total['too_long'] > len(total['too_long_ids']) else ''
      self.say(
        f'{task.name}: {total["too_long"]:,} of {total["examples"]:,} examples '
        f'need more than {length} positions and are left out: {named}{more}'
      )
    return total

  def _sources(self, tasks, before) -> dict[str, Any]:
    """Returns the data files, after checking that they did not change."""
    opened = opened_files.by(self.mixture.module)
    sources = task_files.describe(
      tasks, self.request['split'], self.code, self.digests, opened
    )
    for name, task in before['tasks'].items():
      # TFDS may have written the files of a task in the meantime.
      if task['files'] and task['files'] != sources['tasks'][name]['files']:
        raise retry.ReadError(
          f'the data files of task {name!r} changed while they were read: '
          'start the same command again'
        )
    return sources
