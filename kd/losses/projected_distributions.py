"""A teacher's distributions over outcomes that two vocabularies share.

Ids of both tokenizers with the same text or the same role are one outcome. Any
other id belongs to the outcome of the first token into which the other
tokenizer splits its text: projected KL (P-KL, arXiv 2605.21699) over the shared
part of the vocabularies. Ids that belong to none form one more outcome.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import probability
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import divergences

Array = types.Array

_LEAST = 1e-30  # Minimum probability of the last outcome, which may be empty.


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
  """The ids of one model by outcome.

  Attributes:
    ids: int32 [K], the id of each outcome that both models have.
    others: int32 [n], all other ids.
    joined: int32 [n], the outcome of each of `others`; K for the last one.
    size: number of ids; logits beyond it are ignored.
  """

  ids: np.ndarray
  others: np.ndarray
  joined: np.ndarray
  size: int

  def outcomes(
    self, logits: Array, temperature: Array | float
  ) -> tuple[Array, Array]:
    """Returns log-probabilities [..., K + 1] of outcomes, and the normalizer.

    Args:
      logits: float32 [..., V], logits of all ids.
      temperature: temperature of the softmax.
    """
    scaled = logits[..., : self.size] / temperature
    log_sum = jax.nn.logsumexp(scaled, axis=-1, keepdims=True)
    log_p = scaled[..., self.ids] - log_sum
    mass = jnp.exp(scaled[..., self.others] - log_sum)
    zeros = jnp.zeros((*log_p.shape[:-1], len(self.ids) + 1))
    added = zeros.at[..., self.joined].add(mass)
    joins, rest = added[..., :-1] > 0, added[..., -1:]
    log_added = jnp.log(jnp.where(joins, added[..., :-1], 1.0))
    log_p = jnp.where(joins, jnp.logaddexp(log_p, log_added), log_p)
    log_rest = jnp.log(jnp.maximum(rest, _LEAST))
    return jnp.concatenate([log_p, log_rest], axis=-1), log_sum

  def sorted(self, logits: Array, temperature: Array | float) -> Array:
    """Returns the probabilities of all ids in descending order, [..., size]."""
    scaled = logits[..., : self.size] / temperature
    return -jnp.sort(-jax.nn.softmax(scaled), axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class SharedVocabulary:
  """The outcomes of two tokenizers.

  Attributes:
    student: the student's ids by outcome.
    teacher: the teacher's ids by outcome.
    is_same: whether both tokenizers are the same.
  """

  student: Side
  teacher: Side
  is_same: bool


def same(size: int) -> SharedVocabulary:
  """Returns the vocabulary of equal tokenizers."""
  nothing = np.zeros(0, np.int32)
  side = Side(np.arange(size, dtype=np.int32), nothing, nothing, size)
  return SharedVocabulary(side, side, True)


@struct.dataclass
class ProjectedTeacher(distributions.Distribution):
  """A teacher with its own tokenizer, at the student's positions.

  Attributes:
    teacher: final hidden states where both tokenizations have a boundary.
    shared: the outcomes.
  """

  teacher: dense_distributions.DenseTeacher
  shared: SharedVocabulary = struct.field(pytree_node=False)

  @property
  def num_teachers(self) -> int:
    return 1

  def per_position(self) -> types.PyTree:
    return self.teacher.final_hidden

  def with_positions(self, arrays: types.PyTree) -> 'ProjectedTeacher':
    return self.replace(teacher=self.teacher.replace(final_hidden=arrays))

  def project(self, vocab_size: int | None) -> 'ProjectedLogits':
    # All ids of the teacher are computed, since the student's ids differ.
    del vocab_size
    dense = dense_distributions.DenseMixture((self.teacher,))
    (logits,) = dense.project(None).teachers
    return ProjectedLogits(logits, self.shared)


@struct.dataclass
class ProjectedLogits(distributions.TokenDistribution):
  """A teacher's logits of its own ids at some tokens.

  Attributes:
    teacher: the teacher's logits.
    shared: the outcomes.
  """

  teacher: dense_distributions.TeacherLogits
  shared: SharedVocabulary = struct.field(pytree_node=False)

  def _of_ids(self):
    return dense_distributions.MixtureLogits((self.teacher,))

  def pair(self, student: Array, temperature: Array) -> distributions.Pair:
    if self.shared.is_same:
      return self._of_ids().pair(student, temperature)
    logits = self.teacher.logits
    log_p, sum_p = self.shared.teacher.outcomes(logits, temperature)
    log_q, sum_q = self.shared.student.outcomes(student, temperature)
    normalizers = distributions.Normalizers((sum_p,), sum_q)
    return distributions.Pair(log_p, log_q, None, normalizers)

  def divergence(
    self, divergence: divergences.Divergence, student: Array, temperature: Array
  ) -> tuple[Array, tuple[Array, ...]]:
    if self.shared.is_same:
      return self._of_ids().divergence(divergence, student, temperature)
    return super().divergence(divergence, student, temperature)

  def entropy(self) -> tuple[Array, Array]:
    scaled = self.teacher.logits[..., : self.shared.teacher.size]
    finite = jnp.isfinite(jax.nn.logsumexp(scaled, axis=-1, keepdims=True))
    return probability.entropy(jax.nn.log_softmax(scaled)), finite

  def sorted_distance(
    self, student: Array, temperature: Array
  ) -> tuple[Array, tuple[Array, ...]]:
    """Computes the L1 distance of both models' sorted probabilities.

    Args:
      student: float32 [..., V], the student's logits.
      temperature: float32 [], temperature of both softmaxes.

    Returns:
      The same as `divergence`, but without a unit.
    """
    logits = self.teacher.logits
    p = self.shared.teacher.sorted(logits, temperature)
    q = self.shared.student.sorted(student, temperature)
    size = max(p.shape[-1], q.shape[-1])
    p, q = (
      jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])
      for x in (p, q)
    )
    finite = jnp.isfinite(p[..., 0])
    return jnp.sum(jnp.abs(p - q), axis=-1), (finite,)
