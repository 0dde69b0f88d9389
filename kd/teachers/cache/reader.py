"""Reads the targets of rows from a cache."""

import bisect
import os
from typing import Any

import grain
import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import tensor_files
from kd.core import types
from kd.input_pipeline import retry
from kd.partitioning import rules
from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import records
from kd.teachers.cache import shards

UNEMBEDDING = 'unembedding.safetensors'


class Cache:
  """A cache on disk with random access to its rows."""

  def __init__(
    self,
    folder: str,
    manifest: dict[str, Any],
    retry_policy: retry.RetryPolicy,
  ):
    """Opens the files.

    Args:
      folder: the cache's folder.
      manifest: its checked manifest.
      retry_policy: retry policy for failed reads.

    Raises:
      ConfigError: a file is missing or was changed.
      ReadError: the disk fails.
    """
    self.folder, self.manifest, self._patience = folder, manifest, retry_policy
    self._check_files(manifest['shards'], deep=False, where='')
    request = manifest['request']
    self.method = compression.METHODS.build(request['method'], 'method')
    self.vocab_size = request['vocab_size']
    self._digest = manifest_lib.cache_digest(request)
    self.most_entries = max(
      (s['statistics']['most_entries'] for s in manifest['shards']), default=0
    )
    files = [os.path.join(folder, f['file']) for f in manifest['shards']]
    try:
      self._source = grain.sources.ArrayRecordDataSource(files)
    except Exception as e:  # array_record has its own exception classes.
      self._check_files(manifest['shards'], deep=True, where='')
      raise retry.ReadError(f'{folder}: cannot be opened: {e}') from e
    self._first_rows = [facts['first_row'] for facts in manifest['shards']]

  def __len__(self) -> int:
    return len(self._source)

  def row(self, row_id: int) -> records.RecordedRow:
    """Reads the targets of a row.

    Raises:
      ConfigError: there is no such row, or its file was changed.
      ReadError: the disk fails.
    """
    what = f'{self.folder}: targets of row {row_id}'
    if not 0 <= row_id < len(self):
      raise errors.ConfigError(
        'cache.folder',
        f'{self.folder!r} has no row {row_id}',
        legal=f'rows 0 to {len(self) - 1}',
      )
    try:
      return self._patience.read(
        what,
        lambda: records.decode(
          retry.record(self._source, row_id),
          self.method,
          self.vocab_size,
          self._digest,
        ),
      )
    except retry.ReadError:
      # Report a changed file, for which a retry cannot help.
      number = bisect.bisect_right(self._first_rows, row_id) - 1
      facts = self.manifest['shards'][number]
      self._check_files([facts], deep=True, where=f' (read for row {row_id})')
      raise

  def _check_files(self, facts, deep, where):
    """Raises ConfigError if a file is missing or was changed."""
    for one in facts:
      problem = shards.problem(self.folder, one, deep=deep)
      if problem:
        raise errors.ConfigError(
          'cache.folder',
          f'{os.path.join(self.folder, one["file"])} {problem}{where}',
          legal='the unchanged file; --mode=cache with '
          '--config.cache.repair=True rewrites it',
        )

  def read(self, batch: types.Batch) -> types.PyTree:
    """Reads the targets of a batch's rows as numpy arrays [b, L, ...].

    Args:
      batch: numpy arrays of the rows.

    Returns:
      TopK, Sampled, or hidden states [b, L, D]. Positions without targets have
      no ids, or hidden states of 0.

    Raises:
      ConfigError: targets belong to another row; names it.
      ReadError: see `row`.
    """
    rows = [self.row_of(batch, i) for i in range(len(batch.row_id))]
    if not self.method.entries:
      return _hidden(rows)
    ids = np.stack([self._entries(r, r.ids, -1, np.int32) for r in rows])
    logprobs = np.stack(
      [self._entries(r, r.logprobs, -np.inf, np.float32) for r in rows]
    )
    counts = tails = log_rest = None
    if self.method.draws:
      counts = np.stack(
        [self._entries(r, r.counts, 0, np.float32) for r in rows]
      )
    if self.method.exact:
      tails = _by_position(rows, 'tail_logprob')
    if self.method.is_softened:
      log_rest = _by_position(rows, 'log_rest')
    compressed = compression.Compressed(
      ids, logprobs, counts, tails, None, log_rest
    )
    return self.method.sparse(compressed)

  def row_of(self, batch: types.Batch, number: int) -> records.RecordedRow:
    """Reads the targets of a batch's row; raises the errors of `read`."""
    row_id = int(batch.row_id[number])
    row = self.row(row_id)
    wanted = records.digest_of(batch, number)
    if row.digest != wanted:
      raise errors.ConfigError(
        'cache.folder',
        f'targets {row_id} of {self.folder!r} are of a row with digest '
        f'{row.digest.hex()}, the row has {wanted.hex()}',
        legal='the cache of these rows',
      )
    return row

  def _entries(self, row, values, nothing, kind):
    """Returns entries as [L, K], with `nothing` in unused slots."""
    counted = np.full((len(row.entries), self.most_entries), nothing, kind)
    counted[np.arange(self.most_entries) < row.entries[:, None]] = values
    whole = np.full((len(row.counted), self.most_entries), nothing, kind)
    whole[row.counted] = counted
    return whole


def _by_position(rows, name):
  """Returns one number per target, [b, L]; 0 at positions without targets."""
  numbers = np.zeros((len(rows), len(rows[0].counted)), np.float32)
  for row, values in zip(rows, numbers, strict=True):
    values[row.counted] = getattr(row, name)
  return numbers


def _hidden(rows):
  """Returns hidden states [b, L, D]; 0 at positions without targets."""
  first = rows[0].hidden
  shape = (len(rows), len(rows[0].counted), first.shape[1])
  hidden = np.zeros(shape, first.dtype)
  for row, values in zip(rows, hidden, strict=True):
    values[row.counted] = row.hidden
  return hidden


def write_unembedding(folder: str, table: np.ndarray) -> str:
  """Writes the unembedding [V, D] with which hidden states are multiplied.

  Returns:
    The SHA-256 of the file.

  Raises:
    KdError: the disk is full or fails.
  """
  path = os.path.join(folder, UNEMBEDDING)
  with shards.kd_errors(path):
    tensor_files.save(path + '.tmp', {'unembedding': table})
  atomic_files.sync(path + '.tmp')
  digest = identity.file_digest(path + '.tmp')
  os.replace(path + '.tmp', path)
  buckets.upload_file(path)
  return digest


def unembedding(
  cache: Cache, vocab_size: int, mesh: jax.sharding.Mesh
) -> jax.Array:
  """Reads the teacher's unembedding [V, D] and places it on the mesh.

  Args:
    cache: a cache of hidden states.
    vocab_size: V, the number of ids of the student.
    mesh: mesh of the student.

  Raises:
    ConfigError: the file is missing or was changed.
  """
  path = os.path.join(cache.folder, UNEMBEDDING)
  legal = 'the file as --mode=cache wrote it'
  try:
    digest = identity.file_digest(path)
    table = safetensors_numpy.load_file(path)['unembedding']
  except Exception as e:  # safetensors has its own exception class.
    raise errors.ConfigError(
      'cache.folder', f'{path!r} cannot be read: {e}', legal=legal
    ) from e
  if digest != cache.manifest['files'].get(UNEMBEDDING):
    raise errors.ConfigError(
      'cache.folder', f'{path!r} was changed', legal=legal
    )
  table = table[:vocab_size]
  sharding = rules.table_sharding(mesh, len(table))
  return jax.make_array_from_callback(
    table.shape, sharding, lambda index: table[index]
  )
