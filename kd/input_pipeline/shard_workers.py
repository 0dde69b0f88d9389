"""Prepares shards in several processes on this machine.

The workers are started with `python -m` instead of multiprocessing, which would
import the main module in each. That takes seconds, and a notebook or script
cannot always be imported.
"""

from concurrent import futures
import os
import pickle
import queue
import subprocess
import sys

from kd.core import errors
from kd.input_pipeline import shard_worker
from kd.input_pipeline import shards

_MODULE = 'kd.input_pipeline.shard_worker'


class WorkerError(errors.KdError):
  """A worker process has died."""


def count(asked: int) -> int:
  """Returns the number of processes; 0 stands for one per core."""
  return asked or len(os.sched_getaffinity(0))


class Workers:
  """Worker processes that prepare shards; a context manager that ends them."""

  def __init__(self, setup: shard_worker.Setup, number: int):
    """Initializes the workers; each starts when it gets its first shard.

    Args:
      setup: settings of the workers.
      number: number of processes.
    """
    self._setup, self._number = setup, number
    self._idle: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(number):
      self._idle.put(None)
    self._pool = futures.ThreadPoolExecutor(number, 'shard')
    self._started: list[subprocess.Popen] = []

  def __enter__(self) -> 'Workers':
    return self

  def __exit__(self, kind, *error) -> None:
    if kind is not None:
      # Threads are blocked on results that are no longer needed.
      for process in self._started:
        process.kill()
    self._pool.shutdown(cancel_futures=True)
    for process in self._started:
      process.stdin.close()
      process.wait()
      process.stdout.close()

  def submit(self, shard: shards.Shard) -> futures.Future:
    """Prepares a shard; the result is that of shard_files.write."""
    return self._pool.submit(self._run, shard)

  def _run(self, shard):
    process = self._idle.get() or self._start()
    try:
      pickle.dump(shard, process.stdin)
      process.stdin.flush()
      counts, error = pickle.load(process.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as e:
      raise WorkerError(
        f'a process that prepares rows ended with {process.wait()} at '
        f'{shard.name}; -9 may mean that the machine has no memory left for '
        f'{self._number} of them (data.workers)'
      ) from e
    self._idle.put(process)
    if error is not None:
      raise error
    return counts

  def _start(self):
    process = subprocess.Popen(
      [sys.executable, '-m', _MODULE],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )
    self._started.append(process)
    pickle.dump(self._setup, process.stdin)
    return process
