"""Prepares shards with Apache Beam: on Dataflow, Flink, Spark or this machine.

The workers need this package, the module of the tasks and a folder that all of
them see. apache_beam is in an environment of its own (docs/data.md) and
imported here alone.
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

_READ = '.read.json'  # What reading a task came to.
_ERROR = 'error.json'  # What the user must hear, whatever a runner makes of it.

_writers: dict[str, shard_worker.Writer] = {}  # Of this process, by folder.


@contextlib.contextmanager
def _noted(folder: str) -> Iterator[None]:
  """Within it, an error of the user's is written to the folder as well."""
  try:
    yield
  except errors.ConfigError as e:
    _, parts = e.__reduce__()
    atomic_files.write_json(os.path.join(folder, _ERROR), parts)
    raise


@dataclasses.dataclass(frozen=True)
class _Read:
  """Reads a task and yields the shards that are not complete; pickles."""

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
    # Another attempt may read the task a second time, to the same end.
    atomic_files.write_json(
      os.path.join(folder, name + _READ),
      {'digests': digests, 'skipped': skipped},
    )


@dataclasses.dataclass(frozen=True)
class _Write:
  """Writes a shard; returns its name; pickles."""

  setup: shard_worker.Setup

  def __call__(self, shard: shards_lib.Shard) -> str:
    folder = self.setup.folder
    with _noted(folder):
      if folder not in _writers:
        _writers[folder] = shard_worker.Writer(self.setup)
      _writers[folder](shard)
    return shard.name


def check(folder: str) -> None:
  """Raises ConfigError if Beam is not installed, or can't write a folder.

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
    reading: gives the shards.
    setup: what their files depend on.
    arguments: of the pipeline, such as '--runner=DataflowRunner'.

  Returns:
    By task: the counts of its shards, and the record of wrong examples.

  Raises:
    ConfigError: the data are wrong.
    Exception: the runner's own, if the pipeline fails otherwise.
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
  except Exception as e:  # Runners raise kinds of their own.
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
