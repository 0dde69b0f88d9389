"""Runs calibration rows through a model, resumably."""

from collections.abc import Callable, Iterable
import contextlib
import dataclasses
import os
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import safetensors
import safetensors.numpy

from kd.core import atomic_files
from kd.core import errors
from kd.core import progress
from kd.core import types
from kd.models import family
from kd.partitioning import placement
from kd.partitioning import processes
from kd.partitioning import rules
from kd.pruning import importance

# The partial sums; in the job's folder until the calibration is complete.
FILE = 'calibration.safetensors'
_SAVE_S = 30.0


@dataclasses.dataclass(frozen=True)
class Job:
  """A calibration: a model and the rows to measure it on.

  Attributes:
    model: the model.
    params: its parameters, on their devices.
    mesh: the devices.
    read: reads rows, given the number of the batch and row indices in it.
    rows: number of rows, which need not fill the last batch.
    batch_size: rows per batch.
    length: L, tokens per row.
    identity: digest of the model, its weights and the rows.
    folder: folder of the partial sums.
    say: called with each line for the user.
  """

  model: family.Model
  params: types.PyTree
  mesh: jax.sharding.Mesh
  read: Callable[[int, Iterable[int]], types.Batch]
  rows: int
  batch_size: int
  length: int
  identity: str
  folder: str
  say: progress.Say


def run(job: Job) -> dict[str, np.ndarray]:
  """Returns the sums over all rows, resuming from saved sums.

  The sums are bitwise identical, however often the run is interrupted.

  Raises:
    ConfigError: the saved sums are damaged.
    NonFiniteError: an activation is NaN or infinite.
  """
  file = os.path.join(job.folder, FILE)
  done, sums = _resumed(job, file)
  if done:
    job.say(f'resuming after {done * job.batch_size:,} rows')
  add, batches = importance.make(job.model), -(-job.rows // job.batch_size)
  saved_at = time.monotonic()
  with progress.Progress(
    'calibration', job.say, job.rows, 'rows', tokens=job.length
  ) as task:
    for number in range(done, batches):
      batch = placement.place(_batch(job, number), job.mesh, job.batch_size)
      with rules.active(job.mesh):
        sums = add(job.params, sums, batch)
      # Waits for the devices, so that they do not queue all batches.
      sums[importance.TOKENS].block_until_ready()
      task.set(min(job.rows, (number + 1) * job.batch_size))
      if time.monotonic() - saved_at >= _SAVE_S and number + 1 < batches:
        _save(job, file, number + 1, sums)
        saved_at = time.monotonic()
  result = jax.device_get(sums)
  bad = [name for name, x in result.items() if not np.isfinite(x).all()]
  if bad:
    raise errors.NonFiniteError(
      f'activations are NaN or infinite: sums of {", ".join(bad)}'
    )
  return result


def remove_partial_sums(folder: str) -> None:
  """Removes the partial sums."""
  with contextlib.suppress(FileNotFoundError):
    os.unlink(os.path.join(folder, FILE))


def _batch(job, number):
  """Returns this process's rows of a batch, with padding after the last row."""
  mine = placement.local_rows(job.mesh, job.batch_size)
  batch = job.read(number, mine)
  beyond = number * job.batch_size + mine >= job.rows
  ids = np.where(beyond[:, None], 0, batch.segment_ids)
  return batch.replace(segment_ids=ids.astype(np.int32))


def _resumed(job, file) -> tuple[int, dict[str, jax.Array]]:
  """Returns the number of batches already summed, and their sums."""
  saved = {}

  def read():
    saved.update(_read(job, file))
    return saved.get('batches', 0)

  done = processes.from_first(read)
  sums = saved.get('sums') or importance.zeros(job.model.config)
  if done and jax.process_count() > 1:
    sums = multihost_utils.broadcast_one_to_all(sums)
  sharding = rules.replicated(job.mesh)
  return done, {
    name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
    for name, x in sums.items()
  }


def _read(job, file) -> dict[str, Any]:
  """Returns the saved sums and number of batches; {} if there are none."""
  if not os.path.exists(file):
    return {}
  try:
    with safetensors.safe_open(file, 'numpy') as f:
      metadata = f.metadata() or {}
      sums = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
  except safetensors.SafetensorError as e:
    raise errors.ConfigError(
      file, f'is damaged: {e}', legal='the file as it was written, or none'
    ) from e
  if metadata.get('identity') != job.identity:
    job.say(
      'calibrating again: the model, its weights or the rows have changed'
    )
    return {}
  return {'batches': int(metadata['batches']), 'sums': sums}


def _save(job, file, batches, sums):
  if jax.process_index():
    return
  arrays = {name: np.asarray(value) for name, value in sums.items()}
  metadata = {'identity': job.identity, 'batches': str(batches)}
  atomic_files.write_bytes(file, safetensors.numpy.save(arrays, metadata))
