"""Reads the examples of a mixture's tasks as shards."""

from collections.abc import Callable, Iterator
import dataclasses
import hashlib
from typing import Any

from kd.input_pipeline import examples as examples_lib
from kd.input_pipeline import mixtures
from kd.input_pipeline import retry
from kd.input_pipeline import shards
from kd.input_pipeline import skipping


@dataclasses.dataclass(frozen=True)
class Reading:
  """Reads the examples of a request. Can be pickled.

  Attributes:
    mixture: the tasks and files.
    request: see prepare.prepare.
    retry_policy: retries of reads that fail.
  """

  mixture: mixtures.Mixture
  request: dict[str, Any]
  retry_policy: retry.RetryPolicy

  def tasks(self) -> list[tuple[Any, float]]:
    """Returns the seqio tasks with their rates; see examples.tasks."""
    return examples_lib.tasks(self.mixture, self.request['split'])

  def shards(
    self, task: Any, skips: Callable[[skipping.Skipped | None], None]
  ) -> Iterator[shards.Shard]:
    """Yields the shards of a task.

    Args:
      task: a seqio task.
      skips: called with the collector of invalid examples, or None, whenever
        reading starts.

    Raises:
      ConfigError, ReadError: see examples.stream.
    """
    split, images = self.request['split'], {}

    def opened(name, data):
      images[name] = len(data), hashlib.sha256(data).hexdigest()

    def read():
      skipped = skipping.collector(self.request['on_error'])
      skips(skipped)
      return examples_lib.stream(
        task,
        split,
        self.mixture.module,
        self.request['limit'],
        lambda line: None,
        skipped,
        self.mixture.urls,
        opened,
        self.request.get('teacher_prefix', ''),
        self.mixture.field,
      )

    examples = self.retry_policy.stream(
      f'task {task.name!r}, split {split!r}', read
    )
    return shards.divide(task.name, examples, images)
