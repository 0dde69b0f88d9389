"""Distributions with known probabilities for only some ids, as in a cache."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import bounds
from kd.core import errors
from kd.core import probability
from kd.core import types
from kd.losses import distributions
from kd.losses import divergences

Array = types.Array


class _Sparse(distributions.Distribution, distributions.TokenDistribution):
  """Ids and their log-probabilities, for a batch or for some tokens."""

  @property
  def num_teachers(self) -> int:
    return 1

  def per_position(self) -> types.PyTree:
    return self

  def with_positions(self, arrays: types.PyTree) -> '_Sparse':
    return arrays

  def project(self, vocab_size: int | None) -> '_Sparse':
    del vocab_size
    return self


def _logits_of(logits, ids):
  """Returns the logits of ids [..., K]; LOG_ZERO for an id below 0."""
  chosen = jnp.take_along_axis(logits, jnp.maximum(ids, 0), axis=-1)
  return jnp.where(ids >= 0, chosen, probability.LOG_ZERO)


def _without(logits, ids):
  """Returns logits [..., V], set to LOG_ZERO at the ids [..., K]."""
  size = logits.shape[-1]
  flat = logits.reshape(-1, size)
  index = jnp.where(ids >= 0, ids, size).reshape(flat.shape[0], -1)
  row = jnp.arange(flat.shape[0])[:, None]
  excluded = flat.at[row, index].set(probability.LOG_ZERO, mode='drop')
  return excluded.reshape(logits.shape)


@struct.dataclass
class TopK(_Sparse):
  """A teacher's K most likely next tokens and the mass of all others.

  Attributes:
    ids: int32 [..., K], each at most once; -1 in unused slots.
    logprobs: float32 [..., K], log-probabilities; -inf in unused slots.
    tail_logprob: float32 [...], the log-mass of all other ids.
  """

  ids: Array
  logprobs: Array
  tail_logprob: Array

  def _buckets(self):
    """Returns log-probabilities [..., K + 1] of the ids and of the tail."""
    return jnp.concatenate([self.logprobs, self.tail_logprob[..., None]], -1)

  def _bounded_buckets(self):
    """Returns _buckets with -inf raised to LOG_ZERO, so that 0 * x is 0."""
    return bounds.at_least(self._buckets(), probability.LOG_ZERO)

  def _log_sum(self):
    """Returns the normalizer [..., 1]."""
    # Values are not bounded, which would add mass to an empty distribution.
    return jax.nn.logsumexp(self._buckets(), axis=-1, keepdims=True)

  def pair(self, student: Array, temperature: Array) -> distributions.Pair:
    """Returns distributions over K + 1 outcomes: the K ids and the tail.

    At temperature 1, merging the tail never increases an f-divergence (data
    processing inequality). At other temperatures, both models' K + 1
    probabilities are raised to 1 / T and normalized, since the distribution
    within the tail is unknown.
    """
    total = jax.nn.logsumexp(student, axis=-1, keepdims=True)
    tail = jax.nn.logsumexp(_without(student, self.ids), -1, keepdims=True)
    log_q = jnp.concatenate([_logits_of(student, self.ids), tail], -1) - total
    return distributions.Pair(
      jax.nn.log_softmax(self._bounded_buckets() / temperature),
      jax.nn.log_softmax(log_q / temperature),
      None,
      distributions.Normalizers((self._log_sum(),), total),
    )

  def entropy(self) -> tuple[Array, Array]:
    """Computes the entropy of the K + 1 outcomes, at most the teacher's own."""
    finite = jnp.isfinite(self._log_sum())
    log_p = jax.nn.log_softmax(self._bounded_buckets())
    scores = probability.entropy(log_p)
    return jnp.where(finite[..., 0], scores, jnp.nan), finite


@struct.dataclass
class Sampled(_Sparse):
  """Tokens drawn from a teacher's next-token distribution.

  Attributes:
    ids: int32 [..., K]; -1 in unused slots.
    logprobs: float32 [..., K], log-probabilities of ids at temperature 1.
    weights: float32 [..., K], importance weights: the expectation of sum_k
      weights_k f(ids_k) is the mean of f under the teacher at `drawn_at`; 0 in
      unused slots.
    log_sum: float32 [...], the log of the sum of p^(1 / drawn_at) over all ids;
      None if drawn_at is 1.
    drawn_at: temperature at which ids were drawn.
  """

  ids: Array
  logprobs: Array
  weights: Array
  log_sum: Array | None = None
  drawn_at: float = struct.field(pytree_node=False, default=1.0)

  def _used(self):
    """Returns bool [..., K], whether a slot is used; NaN weights count."""
    return (self.ids >= 0) & (self.weights != 0)

  def _log_sum(self):
    """Returns [..., 1], which is finite where all used slots are."""
    weighted = jnp.where(self._used(), self.weights * self.logprobs, 0.0)
    return jnp.sum(weighted, axis=-1, keepdims=True)

  def pair(self, student: Array, temperature: Array) -> distributions.Pair:
    """Returns the drawn ids, each weighted by its weight over its probability.

    Args:
      student: float32 [..., V].
      temperature: 1 or `drawn_at`; the teacher's normalizer is unknown at other
        temperatures.
    """
    student = student / temperature
    total = jax.nn.logsumexp(student, axis=-1, keepdims=True)
    used = self._used()
    log_q = jnp.where(used, _logits_of(student, self.ids) - total, 0.0)
    log_p = jnp.where(used, self.logprobs, 0.0)
    drawn = jnp.where(used, self._drawn_logprobs(), 0.0)
    weights = jnp.where(used, self.weights, 0.0) * jnp.exp(-drawn)
    log_p = jnp.where(temperature == 1.0, log_p, drawn)
    normalizers = distributions.Normalizers((self._log_sum(),), total)
    return distributions.Pair(log_p, log_q, weights, normalizers)

  def _drawn_logprobs(self):
    """Returns the log-probabilities of ids at `drawn_at`, [..., K]."""
    if self.log_sum is None:
      return self.logprobs
    return self.logprobs / self.drawn_at - self.log_sum[..., None]

  def entropy(self) -> tuple[Array, Array]:
    """Estimates the entropy, without bias, from the drawn ids."""
    finite = jnp.isfinite(self._log_sum())
    used = self._used()
    losses = jnp.where(used, -self.logprobs, 0.0)
    ratio = jnp.where(used, self.logprobs - self._drawn_logprobs(), 0.0)
    scores = jnp.sum(self.weights * jnp.exp(ratio) * losses, axis=-1)
    return jnp.where(finite[..., 0], scores, jnp.nan), finite

  def check(
    self, name: str, divergence: divergences.Divergence, temperature: Any
  ) -> None:
    check_sampled(name, divergence, temperature, self.drawn_at)


def check_sampled(
  name: str,
  divergence: divergences.Divergence,
  temperature: Any,
  drawn_at: float,
) -> None:
  """Raises ConfigError if a term has no unbiased estimate from drawn ids.

  Args:
    name: name of the divergence.
    divergence: the divergence.
    temperature: the term's temperature, a number or a schedule as in the
      config.
    drawn_at: temperature at which ids were drawn.
  """
  legal = "targets of cache.method 'top_k', 'nucleus' or 'hidden'"
  if temperature not in (1, drawn_at):
    is_number = isinstance(temperature, int | float)
    shown = temperature if is_number else temperature['name']
    known = '1.0' if drawn_at == 1 else f'1.0, {drawn_at}'
    raise errors.ConfigError(
      'temperature',
      f'found {shown}, but the targets were sampled at temperature '
      f'{drawn_at:g}: the normalizer is unknown at other temperatures',
      legal=f'{known}, another number if targets are sampled at it '
      f'(cache.method.temperature), or {legal}',
    )
  if divergence.needs_whole_distribution:
    raise errors.ConfigError(
      'name',
      f'{name} needs the full distribution, but the targets are sampled ids',
      legal=f'another divergence, or {legal}',
    )
