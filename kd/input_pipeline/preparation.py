"""Prepares the rows of a request: writes shards and their manifest."""

from collections.abc import Callable, Sequence
import dataclasses
import datetime
import functools
import os
from typing import Any

from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.input_pipeline import beam_backend
from kd.input_pipeline import embedded
from kd.input_pipeline import file_digests
from kd.input_pipeline import opened_files
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import reading as reading_lib
from kd.input_pipeline import retry
from kd.input_pipeline import shard_files
from kd.input_pipeline import shard_workers
from kd.input_pipeline import shards
from kd.input_pipeline import skipping
from kd.input_pipeline import task_code
from kd.input_pipeline import task_files
from kd.input_pipeline import tokenizers
from kd.input_pipeline import work_folders

EMBEDDED, BEAM = BACKENDS = ('embedded', 'beam')  # data.backend


@dataclasses.dataclass(frozen=True)
class Preparation:
  """Prepares the rows of a request.

  Attributes:
    stem: common prefix of the paths of folders with this request.
    reading: the tasks and files, and the request, which contains all settings
      that rows depend on, see prepare.prepare.
    code: source files of the module.
    digests: computes digests of files.
    tokenizer: tokenizer of the texts.
    backend: one of BACKENDS.
    workers: number of processes of EMBEDDED; 0 for one per core.
    beam_args: pipeline options of BEAM.
    on_large: called before the second of several shards is prepared.
    refresh: whether existing rows are prepared again.
    say: prints a line of progress.
  """

  stem: str
  reading: reading_lib.Reading
  code: task_code.TaskCode
  digests: file_digests.Digests
  tokenizer: tokenizers.Tokenizer
  backend: str
  workers: int
  beam_args: Sequence[str]
  on_large: Callable[[], None]
  refresh: bool
  say: Callable[[str], None]

  @property
  def request(self) -> dict[str, Any]:
    return self.reading.request

  @property
  def parent(self) -> str:
    return os.path.dirname(self.stem)

  def write(self) -> str:
    """Writes a folder of rows and returns its path."""
    with errors.refused_unless_writable(
      'data.folder',
      self.parent,
      'a folder that this user can write, or one with these rows',
    ):
      os.makedirs(self.parent, exist_ok=True)
      work_folders.remove_old(self.parent)
    pairs = self.reading.tasks()
    tasks = [task for task, _ in pairs]
    before = task_files.describe(
      tasks, self.request['split'], self.code, self.digests
    )
    key = identity.digest([self.request, before])
    while True:
      if buckets.is_copy(self.stem) and not self.refresh:
        # Folders in buckets are not renamed when complete, so check whether
        # another process has completed this one.
        done = prepared_lib.reusable(self.stem, self.code, self.digests)
        if done is not None:
          return done
      try:
        with work_folders.work_folder(self.stem, key) as (folder, claims):
          return self._write_in(folder, claims, pairs, before)
      except work_folders.GoneError:
        done = prepared_lib.reusable(self.stem, self.code, self.digests)
        if done is not None:
          return done

  def _write_in(self, folder, claims, pairs, before) -> str:
    """Writes the rows of every task, then renames the folder."""
    tasks = [task for task, _ in pairs]
    counts, skipped = self._counts(folder, claims, tasks)
    for name, record in skipped.items():
      if record:
        self.say(f'{name}: {skipping.line(record)}')
    claims.wait(prepared_lib.MANIFEST)
    if buckets.is_copy(folder) and prepared_lib.is_complete(folder):
      return folder  # Another process has completed it.
    records = [
      {'task': task.name, 'rate': rate}
      | self._total(task, counts[task.name])
      | {'skipped': skipped[task.name]}
      for task, rate in pairs
    ]
    now = datetime.datetime.now(datetime.UTC)
    manifest = {
      'request': self.request,
      'prepared': now.isoformat(timespec='microseconds'),
      'sources': self._data_files(tasks, before, counts),
      'parts': records,
    }
    digest = identity.digest([manifest['parts'], manifest['sources']])
    names = [
      f'{shards.name(record["task"], number)}{kind}'
      for record in records
      for number in range(len(record['shards']))
      for kind in (shard_files.ROWS, shard_files.EXAMPLES)
    ]
    prepared_lib.write_manifest(folder, manifest)
    if buckets.is_copy(folder):
      return folder
    rows = f'{self.stem}-{digest}'
    work_folders.rename(folder, rows, [*names, prepared_lib.MANIFEST])
    return rows

  def _counts(self, folder, claims, tasks) -> tuple[Any, Any]:
    """Prepares the shards; returns counts and skipped examples by task."""
    skips: dict[str, skipping.Skipped | None] = {}
    job = embedded.Job(
      folder,
      self.request,
      self.tokenizer,
      {
        task.name: functools.partial(
          self.reading.shards,
          task,
          # If a task is read several times, the last one counts.
          functools.partial(skips.__setitem__, task.name),
        )
        for task in tasks
      },
      {task.name: self._size(task) for task in tasks},
      self.say,
      self.on_large,
    )
    if self.backend == BEAM:
      claims.wait(BEAM)
      return beam_backend.prepare(self.reading, job.setup(), self.beam_args)
    counts = embedded.prepare(job, claims, shard_workers.count(self.workers))
    return counts, {k: x.record() if x else {} for k, x in skips.items()}

  def _size(self, task) -> int | None:
    """Returns the number of a task's examples, None if unknown."""
    size = task.num_input_examples(self.request['split'])
    limit = self.request['limit']
    return size if size is None or limit < 0 else min(size, limit)

  def _total(self, task, counts) -> dict[str, Any]:
    """Returns a task's total counts and reports dropped examples.

    Raises:
      ConfigError: every example is longer than a row.
    """
    length = self.request['length']
    total = shard_files.total(counts, length)
    shortest = min(c['shortest'] for c in counts)
    has_images = 'images' in self.request
    if has_images and not total['rows'] and shortest <= length:
      raise errors.ConfigError(
        'data.images.per_row',
        f'found {self.request["images"]["per_row"]}, and every example of '
        f'{task.name!r} that fits into a row has more images',
        legal='more images per row',
      )
    if not total['rows']:
      raise errors.ConfigError(
        'data.length',
        f'{length} is too short for every example of {task.name!r}',
        legal=f'{shortest} or more',
      )
    if total['too_long']:
      named = ', '.join(total['too_long_ids'])
      more = ', ...' if total['too_long'] > len(total['too_long_ids']) else ''
      images = ''
      if has_images:
        images = f' or more than {self.request["images"]["per_row"]} images'
      self.say(
        f'{task.name}: {total["too_long"]:,} of {total["examples"]:,} examples '
        f'need more than {length} positions{images} and are left out: '
        f'{named}{more}'
      )
    return total

  def _data_files(self, tasks, before, counts) -> dict[str, Any]:
    """Returns the data files after checking that they did not change."""
    opened = opened_files.files_of(self.reading.mixture.module)
    images = {name: _images(name, of) for name, of in counts.items()}
    files = task_files.describe(
      tasks, self.request['split'], self.code, self.digests, opened, images
    )
    for name, task in before['tasks'].items():
      # No files before: TFDS may have written them in the meantime.
      if task['files'] and task['files'] != files['tasks'][name]['files']:
        raise _changed(name)
    return files


def _images(task, counts) -> shards.Images:
  """Returns the images of all shards of a task."""
  images = {}
  for shard in counts:
    # Missing in shards that earlier versions prepared.
    for name, read in shard.get(shard_files.IMAGES, {}).items():
      if images.setdefault(name, tuple(read)) != tuple(read):
        raise _changed(task)
  return images


def _changed(task) -> retry.ReadError:
  return retry.ReadError(
    f'the data files of task {task!r} changed while they were read: start the '
    'same command again'
  )
