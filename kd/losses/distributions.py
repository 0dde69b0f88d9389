"""Interfaces between loss terms and teachers' next-token distributions.

A `Distribution` describes all positions of a batch. The objective computes with
chunks of tokens: it cuts the arrays `per_position` into chunks, puts a chunk in
their place (`with_positions`) and calls `project`, once for all terms. Terms
compare the resulting `TokenDistribution` with the student's logits and do not
depend on how it is represented.

A new representation is one class, like those of dense_distributions and
sparse_distributions.
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
  """Logs of the sums that softmaxes divide by.

  A distribution with a value that is NaN or +inf, or without any mass, has a
  normalizer that is NaN or infinite.

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
    """Returns losses [...] that are NaN where any normalizer is not finite."""
    finite = jnp.isfinite(self.student[..., 0])
    for teacher in self.finite_teachers:
      finite &= teacher
    return jnp.where(finite, losses, jnp.nan)


@struct.dataclass
class Pair:
  """The teacher's and the student's distribution over the same outcomes.

  Attributes:
    log_p: float32 [..., V], the teacher's log-probabilities.
    log_q: float32 [..., V], the student's.
    weights: None, or float32 [..., V]: the outcomes are samples, and these are
      their weights in a sum over outcomes.
    normalizers: what both were divided by.
  """

  log_p: Array
  log_q: Array
  weights: Array | None
  normalizers: Normalizers

  def contributions(self, divergence: divergences.Divergence) -> Array:
    """Computes what each outcome adds to a divergence: float32 [..., V]."""
    if self.weights is None:
      return divergence.integrand(self.log_p, self.log_q)
    return divergence.sampled_integrand(self.log_p, self.log_q) * self.weights


class TokenDistribution(abc.ABC):
  """The distributions at some tokens [...], ready to be compared."""

  def check(
    self, name: str, divergence: divergences.Divergence, temperature: Any
  ) -> None:
    """Raises ConfigError if a term cannot be computed from such targets.

    Args:
      name: of the divergence.
      divergence: the divergence.
      temperature: the term's, a number or a schedule as in the config.
    """
    del name, divergence, temperature

  @abc.abstractmethod
  def pair(self, student: Array, temperature: Array) -> Pair:
    """Returns both distributions over outcomes that both models know.

    Args:
      student: float32 [..., V], the student's logits.
      temperature: float32 [], of both softmaxes.
    """

  @abc.abstractmethod
  def entropy(self) -> tuple[Array, Array]:
    """Computes the entropy at temperature 1.

    Returns:
      float32 [...] in nats; and for each of n teachers whether its distribution
      is finite, bool [..., n]. Where one is not, the entropy may be NaN.
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
      float32 [...] in nats, NaN where a distribution is not finite; and for
      each teacher whether its distribution is finite, bool [...].
    """
    pair = self.pair(student, temperature)
    losses = jnp.sum(pair.contributions(divergence), axis=-1)
    normalizers = pair.normalizers
    return normalizers.keep_nonfinite(losses), normalizers.finite_teachers


class Distribution(abc.ABC):
  """A teacher's, or several teachers', distributions at a batch's positions."""

  @property
  @abc.abstractmethod
  def num_teachers(self) -> int:
    """Returns the number of teachers that are told apart when not finite."""

  @abc.abstractmethod
  def per_position(self) -> types.PyTree:
    """Returns the arrays that have a value per position, [B, L, ...]."""

  @abc.abstractmethod
  def with_positions(self, arrays: types.PyTree) -> 'Distribution':
    """Returns a copy with other arrays in place of those of per_position.

    Args:
      arrays: [B, L, ...], or [T, ...] of a chunk. Positions that do not count
        are zeros: results computed from them must be finite.
    """

  @abc.abstractmethod
  def project(self, vocab_size: int | None) -> TokenDistribution:
    """Computes what terms compare, at positions [T] of a chunk.

    Args:
      vocab_size: ids that the student has; None: all that the teacher has.
    """


@struct.dataclass
class Targets:
  """A teacher's targets for a batch.

  Attributes:
    distribution: of the next token.
    taps: the layer outputs that terms compare, or None.
    mapped: whether of terms with adaptive maps `taps` has the layers of the map
      alone, see layer_objective.mapped.
  """

  distribution: Distribution
  taps: types.Taps | None
  mapped: bool = struct.field(pytree_node=False, default=False)


def count_teachers(distribution: Distribution | None) -> int:
  """Returns how many teachers a distribution comes from; 0 for None."""
  return distribution.num_teachers if distribution else 0
