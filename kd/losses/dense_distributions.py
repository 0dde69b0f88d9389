"""Distributions of teachers with known logits for every id."""

import functools

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import probability
from kd.core import types
from kd.losses import chunks
from kd.losses import distributions
from kd.losses import divergences

Array = types.Array


def _log_sum(logits, size, temperature):
  """Computes the normalizer [..., 1] of a softmax over the first `size` ids.

  Unlike jax.nn.log_softmax, a reduction writes no array of size V.
  """
  scaled = logits[..., :size] / temperature
  return jax.nn.logsumexp(scaled, axis=-1, keepdims=True)


def by_teacher(weights: Array) -> list[Array]:
  """Splits weights [..., n] into those of each of n teachers.

  At positions that do not count all weights are zero. Equal weights are used
  there, so that results are finite.
  """
  count = weights.shape[-1]
  is_set = jnp.sum(weights, axis=-1, keepdims=True) > 0
  weights = jnp.where(is_set, weights, 1.0 / count)
  return [weights[..., i] for i in range(count)]


@struct.dataclass
class DenseTeacher:
  """One teacher's final hidden states and output embedding.

  Attributes:
    final_hidden: [B, L, D_t], the teacher's last hidden states after its final
      norm; its logits are `final_hidden @ unembedding.T`.
    unembedding: [V_t, D_t], the teacher's output embedding.
    weight: float32 [], its weight in the mixture; all weights sum to 1.
  """

  final_hidden: Array
  unembedding: Array
  weight: Array


@struct.dataclass
class DenseMixture(distributions.Distribution):
  """A mixture of the distributions of one or more teachers.

  Attributes:
    teachers: the teachers, with weights that sum to 1.
    weights: float32 [B, L, n], per-position weights of n teachers that replace
      the teachers' own weights; None if there are none.
  """

  teachers: tuple[DenseTeacher, ...]
  weights: Array | None = None

  @property
  def num_teachers(self) -> int:
    return len(self.teachers)

  def per_position(self) -> types.PyTree:
    return tuple(t.final_hidden for t in self.teachers), self.weights

  def with_positions(self, arrays: types.PyTree) -> 'DenseMixture':
    hidden, weights = arrays
    pairs = zip(self.teachers, hidden, strict=True)
    return DenseMixture(
      tuple(t.replace(final_hidden=x) for t, x in pairs), weights
    )

  def project(self, vocab_size: int | None) -> 'MixtureLogits':
    # Logits are computed only for ids that the student has.
    return MixtureLogits(
      tuple(
        TeacherLogits(
          chunks.project(t.final_hidden, t.unembedding[:vocab_size]), weight
        )
        for t, weight in zip(self.teachers, self._weights(), strict=True)
      )
    )

  def _weights(self):
    """Returns the weight of each teacher, [] or [T]."""
    if self.weights is None:
      return [t.weight for t in self.teachers]
    return by_teacher(self.weights)


@struct.dataclass
class TeacherLogits:
  """One teacher's logits.

  Attributes:
    logits: float32 [..., V_t].
    weight: float32 [] or [...], its weight in the mixture of teachers.
  """

  logits: Array
  weight: Array


@struct.dataclass
class MixtureLogits(distributions.TokenDistribution):
  """The logits of one or more teachers at some tokens.

  Embeddings for the same tokenizer may differ in the number of padding rows.
  Ids that one of the models lacks are left out before any softmax.

  Attributes:
    teachers: the teachers' logits, with weights that sum to 1.
  """

  teachers: tuple[TeacherLogits, ...]

  @property
  def size(self) -> int:
    """Returns the number of ids that all teachers have."""
    return min(t.logits.shape[-1] for t in self.teachers)

  def log_sums(
    self, size: int, temperature: Array | float
  ) -> tuple[Array, ...]:
    """Computes each teacher's normalizer over its first `size` ids."""
    return tuple(_log_sum(t.logits, size, temperature) for t in self.teachers)

  def log_probabilities(
    self, log_sums: tuple[Array, ...], size: int, temperature: Array | float
  ) -> Array:
    """Computes log sum_i weight_i p_i: float32 [..., size].

    Args:
      log_sums: the result of `log_sums`.
      size: number of ids, from id 0.
      temperature: temperature of each teacher's softmax, before mixing.
    """
    each = [
      t.logits[..., :size] / temperature - log_sum
      for t, log_sum in zip(self.teachers, log_sums, strict=True)
    ]
    if len(each) == 1:
      return each[0]
    log_weights = [jnp.log(t.weight)[..., None] for t in self.teachers]
    weighted = [x + w for x, w in zip(each, log_weights, strict=True)]
    return jax.nn.logsumexp(jnp.stack(weighted), axis=0)

  def _normalizers(self, student, temperature):
    size = min(student.shape[-1], self.size)
    return distributions.Normalizers(
      self.log_sums(size, temperature),
      _log_sum(student, size, temperature),
    )

  def _normalized(self, student, normalizers, temperature):
    """Returns the Pair for known normalizers."""
    size = min(student.shape[-1], self.size)
    return distributions.Pair(
      self.log_probabilities(normalizers.teachers, size, temperature),
      student[..., :size] / temperature - normalizers.student,
      None,
      normalizers,
    )

  def pair(self, student: Array, temperature: Array) -> distributions.Pair:
    normalizers = self._normalizers(student, temperature)
    return self._normalized(student, normalizers, temperature)

  def entropy(self) -> tuple[Array, Array]:
    sums = self.log_sums(self.size, 1.0)
    mixed = self.log_probabilities(sums, self.size, 1.0)
    scores = probability.entropy(jax.nn.log_softmax(mixed))
    return scores, jnp.isfinite(jnp.concatenate(sums, axis=-1))

  def divergence(
    self, divergence: divergences.Divergence, student: Array, temperature: Array
  ) -> tuple[Array, tuple[Array, ...]]:
    return _divergence(divergence, student, self, temperature)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divergence(divergence, student, teacher, temperature):
  """Computes MixtureLogits.divergence; its VJP stores no [..., V] array.

  Differentiable in the student's logits.
  """
  return _divergence_forward(divergence, student, teacher, temperature)[0]


def _divergence_forward(divergence, student, teacher, temperature):
  normalizers = teacher._normalizers(student, temperature)
  pair = teacher._normalized(student, normalizers, temperature)
  value, slope = _value_and_slope(divergence, pair)
  slopes = jnp.sum(slope, axis=-1, keepdims=True)
  if divergence.slopes_cancel:
    slopes = jnp.zeros_like(slopes)
  losses = normalizers.keep_nonfinite(jnp.sum(value, axis=-1))
  residuals = student, teacher, normalizers, temperature, slopes
  return (losses, normalizers.finite_teachers), residuals


def _value_and_slope(divergence, pair):
  """Returns the contributions and their derivative with respect to log_q."""
  return jax.jvp(
    lambda log_q: divergence.integrand(pair.log_p, log_q),
    (pair.log_q,),
    (jnp.ones_like(pair.log_q),),
  )


def _divergence_backward(divergence, residuals, cotangents):
  """Computes (slope - q sum(slope)) / T in one pass over V.

  Rereading the logits and taking exponentials twice costs less than writing and
  reading arrays of size V. The barrier keeps the compiler from storing them.
  """
  student, teacher, normalizers, temperature, slopes = residuals
  student, teacher = jax.lax.optimization_barrier((student, teacher))
  pair = teacher._normalized(student, normalizers, temperature)
  _, slope = _value_and_slope(divergence, pair)
  gradient = slope - jnp.exp(pair.log_q) * slopes
  gradient *= cotangents[0][..., None] / temperature
  size = student.shape[-1] - gradient.shape[-1]
  if size:
    gradient = jnp.pad(gradient, [(0, 0)] * (gradient.ndim - 1) + [(0, size)])
  return gradient, None, None


_divergence.defvjp(_divergence_forward, _divergence_backward)
