"""Prepares shards with Apache Beam: on Dataflow, Flink, Spark or this machine.

The workers need this package, the module that defines the tasks, and a shared
folder. apache_beam needs a separate environment (docs/data.md) and is only
imported here.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import json
import os
from typing import Any

from kd.core import atomic_files
from kd.core import errors
from kd.core import objects
from kd.core import plugins
from kd.input_pipeline import reading as reading_lib
from kd.input_pipeline import shard_files
from kd.input_pipeline import shard_worker
from kd.input_pipeline import shards as shards_lib

_READ = '.read.json'  # Results of reading a task.
_ERROR = 'error.json'  # A ConfigError, since runners wrap exceptions.

_writers: dict[str, shard_worker.Writer] = {}  # This process's, by folder.


@contextlib.contextmanager
def _noted(folder: str) -> Iterator[None]:
  """Writes a ConfigError of its body to the folder before it propagates."""
  try:
    yield
  except errors.ConfigError as e:
    _, parts = e.__reduce__()
    atomic_files.write_json(os.path.join(folder, _ERROR), parts)
    raise


@dataclasses.dataclass(frozen=True)
class _Read:
  """Reads a task and yields its incomplete shards. Can be pickled."""

  reading: reading_lib.Reading
  setup: shard_worker.Setup

  def __call__(self, name: str) -> Iterator[shards_lib.Shard]:
    with _noted(self.setup.folder):
      yield from self._shards(name)

  def _shards(self, name):
    plugins.load(self.setup.plugins)
    tasks = {task.name: task for task, _ in self.reading.tasks()}
    folder, digests, skips = self.setup.folder, [], []
    for shard in self.reading.shards(tasks[name], skips.append):
      digests.append(shard.digest)
      if not shard_files.finished(folder, shard.name, shard.digest):
        yield shard
    skipped = skips[-1].record() if skips[-1] else {}
    # A retry of the runner may read the task again, with the same result.
    atomic_files.write_json(
      os.path.join(folder, name + _READ),
      {'digests': digests, 'skipped': skipped},
    )


@dataclasses.dataclass(frozen=True)
class _Write:
  """Writes a shard and returns its name. Can be pickled."""

  setup: shard_worker.Setup

  def __call__(self, shard: shards_lib.Shard) -> str:
    folder = self.setup.folder
    with _noted(folder):
      if folder not in _writers:
        _writers[folder] = shard_worker.Writer(self.setup)
      _writers[folder](shard)
    return shard.name


def check(folder: str) -> None:
  """Raises ConfigError if Beam is not installed or cannot write to a folder.

  Args:
    folder: data.folder.
  """
  if objects.is_url(folder):
    raise errors.ConfigError(
      'data.folder',
      f"found {folder!r}, and data.backend 'beam'",
      legal='a folder that all workers of the pipeline share, or '
      "data.backend 'embedded'",
    )
  if importlib.util.find_spec('apache_beam') is None:
    raise errors.ConfigError(
      'data.backend',
      "found 'beam', and there is no module apache_beam",
      legal="'embedded', or an environment with Beam (docs/data.md)",
    )


def prepare(
  reading: reading_lib.Reading,
  setup: shard_worker.Setup,
  arguments: Sequence[str],
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Mapping[str, Any]]]:
  """Prepares all shards.

  Args:
    reading: reads the tasks and divides them into shards.
    setup: settings of the workers.
    arguments: pipeline options, such as '--runner=DataflowRunner'.

  Returns:
    The counts of the shards by task, and the records of skipped examples by
    task.

  Raises:
    ConfigError: the data are invalid.
    Exception: the pipeline fails otherwise; the runner's own exception.
  """
  import apache_beam as beam
  from apache_beam.options import pipeline_options

  tasks = {task.name: task for task, _ in reading.tasks()}
  options = pipeline_options.PipelineOptions(list(arguments))
  pipeline = beam.Pipeline(options=options)
  _ = (
    pipeline
    | 'tasks' >> beam.Create(list(tasks))
    | 'read' >> beam.FlatMap(_Read(reading, setup))
    | 'divide among workers' >> beam.Reshuffle()
    | 'write' >> beam.Map(_Write(setup))
  )
  error = os.path.join(setup.folder, _ERROR)
  try:
    pipeline.run().wait_until_finish()
  except Exception as e:  # Each runner raises its own types.
    if os.path.exists(error):
      with open(error, encoding='utf-8') as f:
        raise errors.ConfigError(*json.load(f)) from e
    raise
  counts, skipped = {}, {}
  for name in tasks:
    with open(os.path.join(setup.folder, name + _READ), encoding='utf-8') as f:
      read = json.load(f)
    skipped[name] = read['skipped']
    counts[name] = [
      shard_files.finished(setup.folder, shards_lib.name(name, number), digest)
      for number, digest in enumerate(read['digests'])
    ]
  return counts, skipped
