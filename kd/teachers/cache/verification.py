"""Scores random rows again and compares the results with a cache."""

import time

import numpy as np

from kd.input_pipeline import rows as rows_lib
from kd.partitioning import placement
from kd.partitioning import processes
from kd.teachers.cache import reader
from kd.teachers.cache import report
from kd.teachers.cache import shard_writer
from kd.teachers.cache import writer


def verify(job: writer.CacheJob, cache: reader.Cache, count: int) -> None:
  """Reports the differences of cached targets from their teachers' outputs.

  Args:
    job: the settings of the cache.
    cache: the cache.
    count: number of rows, drawn anew at each call.

  Raises:
    ConfigError: the mean difference is too large for the same teachers.
  """
  size = job.batch_size
  local_rows = placement.local_rows(job.scorer.mesh, size)
  rows = rows_lib.Numbered(job.prepared)
  # All processes must choose the same rows.
  seed = processes.from_first(lambda: time.time_ns())
  chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
  comparison = report.Comparison(job.method)
  for first in range(0, len(chosen), size):
    numbers = np.full(size, -1)
    part = chosen[first : first + size]
    numbers[: len(part)] = part
    batch = rows(numbers[local_rows])
    scored = job.scorer.finish(job.scorer.begin(batch, again=True))
    for at, number in enumerate(numbers[local_rows]):
      if number >= 0:
        comparison.add(
          cache.row_of(batch, at), shard_writer.row_of(batch, scored, at)
        )
  comparison.say(job.say, len(chosen))
