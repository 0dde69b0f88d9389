"""Interfaces between loss terms and teachers' next-token distributions.

A `Distribution` describes all positions of a batch. The objective processes
chunks of tokens: it cuts the arrays of `per_position` into chunks, replaces
them by a chunk (`with_positions`) and calls `project`, once for all terms.
Terms compare the resulting `TokenDistribution` with the student's logits and do
not depend on its representation.

A new representation implements both interfaces, like those in
dense_distributions and sparse_distributions.
"""

import abc
from typing import Any

from flax import struct
import jax.numpy as jnp

from kd.core import types
from kd.losses import divergences

Array = types.Array


@struct.dataclass
class Normalizers:
  """Log-normalizers of softmaxes.

  The normalizer is NaN or infinite if the distribution contains NaN or +inf or
  has no mass.

  Attributes:
    teachers: float32 [..., 1] for each teacher whose logits or kept ids are
      known separately.
    student: float32 [..., 1].
  """

  teachers: tuple[Array, ...]
  student: Array

  @property
  def finite_teachers(self) -> tuple[Array, ...]:
    """Returns bool [...] for each teacher: whether it is finite."""
    return tuple(jnp.isfinite(x[..., 0]) for x in self.teachers)

  def keep_nonfinite(self, losses: Array) -> Array:
    """Returns losses [...], NaN where any normalizer is not finite."""
    finite = jnp.isfinite(self.student[..., 0])
    for teacher in self.finite_teachers:
      finite &= teacher
    return jnp.where(finite, losses, jnp.nan)


@struct.dataclass
class Pair:
  """The teacher's and the student's distributions over the same outcomes.

  Attributes:
    log_p: float32 [..., V], the teacher's log-probabilities.
    log_q: float32 [..., V], the student's.
    weights: float32 [..., V], weights of outcomes that are samples, in a sum
      over outcomes; None if the outcomes are not samples.
    normalizers: normalizers of both.
  """

  log_p: Array
  log_q: Array
  weights: Array | None
  normalizers: Normalizers

  def contributions(self, divergence: divergences.Divergence) -> Array:
    """Computes each outcome's part of a divergence, float32 [..., V]."""
    if self.weights is None:
      return divergence.integrand(self.log_p, self.log_q)
    return divergence.sampled_integrand(self.log_p, self.log_q) * self.weights


class TokenDistribution(abc.ABC):
  """Next-token distributions at some tokens [...]."""

  def check(
    self, name: str, divergence: divergences.Divergence, temperature: Any
  ) -> None:
    """Raises ConfigError if a term cannot be computed from these targets.

    Args:
      name: name of the divergence.
      divergence: the divergence.
      temperature: the term's temperature, a number or a schedule as in the
        config.
    """
    del name, divergence, temperature

  @abc.abstractmethod
  def pair(self, student: Array, temperature: Array) -> Pair:
    """Returns the distributions of both models over shared outcomes.

    Args:
      student: float32 [..., V], the student's logits.
      temperature: float32 [], temperature of both softmaxes.
    """

  @abc.abstractmethod
  def entropy(self) -> tuple[Array, Array]:
    """Computes the entropy at temperature 1.

    Returns:
      float32 [...], in nats; and bool [..., n], whether the distribution of
      each of n teachers is finite. Where one is not, the entropy may be NaN.
    """

  def divergence(
    self, divergence: divergences.Divergence, student: Array, temperature: Array
  ) -> tuple[Array, tuple[Array, ...]]:
    """Computes a divergence; differentiable in the student's logits.

    Args:
      divergence: the divergence.
      student: float32 [..., V], the student's logits.
      temperature: float32 [].

    Returns:
      float32 [...], in nats, NaN where a distribution is not finite; and for
      each teacher bool [...], whether its distribution is finite.
    """
    pair = self.pair(student, temperature)
    losses = jnp.sum(pair.contributions(divergence), axis=-1)
    normalizers = pair.normalizers
    return normalizers.keep_nonfinite(losses), normalizers.finite_teachers


class Distribution(abc.ABC):
  """Distributions of one or more teachers at the positions of a batch."""

  @property
  @abc.abstractmethod
  def num_teachers(self) -> int:
    """Returns the number of teachers that are checked for finite values."""

  @abc.abstractmethod
  def per_position(self) -> types.PyTree:
    """Returns the arrays that have a value per position, [B, L, ...]."""

  @abc.abstractmethod
  def with_positions(self, arrays: types.PyTree) -> 'Distribution':
    """Returns a copy with other arrays in place of those from per_position.

    Args:
      arrays: [B, L, ...], or [T, ...] of a chunk. Positions that do not count
        contain zeros, for which results must be finite.
    """

  @abc.abstractmethod
  def project(self, vocab_size: int | None) -> TokenDistribution:
    """Computes the token distributions at positions [T] of a chunk.

    Args:
      vocab_size: number of ids of the student; None for all of the teacher's.
    """


@struct.dataclass
class Targets:
  """A teacher's targets for a batch.

  Attributes:
    distribution: next-token distribution.
    taps: the layer outputs that terms compare, or None.
    mapped: whether `taps` contains only the layers of the map for terms with
      adaptive maps, see layer_objective.mapped.
  """

  distribution: Distribution
  taps: types.Taps | None
  mapped: bool = struct.field(pytree_node=False, default=False)


def count_teachers(distribution: Distribution | None) -> int:
  """Returns the number of teachers of a distribution; 0 for None."""
  return distribution.num_teachers if distribution else 0
