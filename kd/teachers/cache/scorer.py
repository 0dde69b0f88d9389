"""Scores the rows of a cache with teachers in memory or one on a server."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd.core import types
from kd.partitioning import placement
from kd.teachers import live
from kd.teachers.cache import compression
from kd.teachers.cache import scoring
from kd.teachers.served import teacher as served_teacher


class Scorer(abc.ABC):
  """Scores batches; several may be in progress at a time."""

  mesh: jax.sharding.Mesh

  @abc.abstractmethod
  def begin(self, rows: types.Batch, again: bool = False) -> Any:
    """Starts to score a batch.

    Args:
      rows: this process's rows, numpy arrays.
      again: whether to score rows again that were scored before.

    Returns:
      The pending scores for `finish`.
    """

  @abc.abstractmethod
  def finish(self, begun: Any) -> scoring.Scored:
    """Returns the scores of this process's rows as numpy arrays."""

  def table(self) -> np.ndarray:
    """Returns the teacher's unembedding [V, D], for caches of hidden states."""
    raise NotImplementedError

  @abc.abstractmethod
  def close(self) -> None:
    """Releases the scorer's resources."""


class LiveScorer(Scorer):
  """Teachers in memory, all on one mesh."""

  def __init__(
    self,
    teachers: Sequence[live.Teacher],
    method: compression.Method,
    vocab_size: int,
    chunk_tokens: int,
    seed: int,
    batch_size: int,
    change: Callable[[types.Batch], types.Batch] | None = None,
  ):
    """Initializes the scorer; see scoring.make.

    Args:
      teachers: the teachers with their parameters.
      method: the compression method.
      vocab_size: V, the number of scored ids.
      chunk_tokens: tokens per device whose logits are in memory at a time.
      seed: seed of the random draws.
      batch_size: number of rows over all processes.
      change: function that adds the teachers' own rows and weights to a batch
        of numpy arrays; None if they read and score all rows as they are.
    """
    self._change = change
    self.mesh = jax.tree.leaves(teachers[0].params)[0].sharding.mesh
    self._teacher, self._batch_size = teachers[0], batch_size
    self._score = scoring.make(teachers, method, vocab_size, chunk_tokens, seed)

  def begin(self, rows, again=False):
    del again
    if self._change:
      rows = self._change(rows)
    return self._score(placement.place(rows, self.mesh, self._batch_size))

  def finish(self, begun):
    return placement.fetch(begun, self.mesh, self._batch_size)

  def table(self):
    table = self._teacher.model.unembedding(self._teacher.params)
    if jax.process_count() > 1:
      table = multihost_utils.process_allgather(table, tiled=True)
    return np.asarray(table)

  def close(self):
    pass  # Nothing is open.


class ServedScorer(Scorer):
  """A teacher on a server."""

  def __init__(self, teacher: served_teacher.Teacher, mesh: jax.sharding.Mesh):
    """Initializes the scorer.

    Args:
      teacher: client of the server.
      mesh: mesh of the student.
    """
    self.mesh, self._teacher = mesh, teacher

  def begin(self, rows, again=False):
    return rows, self._teacher.begin(rows, again)

  def finish(self, begun):
    told = self._teacher.finish(*begun)
    compressed = compression.Compressed(
      told.ids, told.logprobs, None, told.tail_logprob, None
    )
    return scoring.Scored(
      compressed,
      told.target_logprob,
      # The log-normalizer of log-probabilities is 0.
      np.zeros_like(told.target_logprob),
      told.entropy,
      told.dropped_mass,
      np.ones((*told.entropy.shape, 1), bool),
    )

  def close(self):
    self._teacher.close()
