"""Teacher and student side by side, as distributions over the same outcomes.

A dense teacher gives logits of every id; a sparse one gives K ids and either
the mass of the rest, which becomes one more outcome, or importance weights of
what was drawn. A divergence sees none of this: only two arrays of
log-probabilities and, for samples, what each outcome counts for.
"""

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import bounds
from kd.core import types

Array = types.Array

# Logit of what is ruled out: exp of it is 0 at any temperature, and unlike -inf
# its differences are numbers.
RULED_OUT = -1e9


@struct.dataclass
class Logits:
  """What a term may read of some tokens.

  Attributes:
    student: float32 [..., V].
    teacher: pairs of logits float32 [..., V_t] and weight [] for each teacher,
      or TopK or Sampled of these tokens, or None without a teacher.
    labels: int32 [...], the true next token.
  """

  student: Array
  teacher: tuple[tuple[Array, Array], ...] | types.TopK | types.Sampled | None
  labels: Array


@struct.dataclass
class Pair:
  """Two distributions over the same outcomes.

  Attributes:
    log_p: float32 [..., V], the teacher's log-probabilities.
    log_q: float32 [..., V], the student's.
    counts: None, or float32 [..., V], what each outcome counts for in a sum.
    sums: what the two were normalized by; not finite where they are not.
  """

  log_p: Array
  log_q: Array
  counts: Array | None
  sums: 'Normalizers'


@struct.dataclass
class Normalizers:
  """Logs of the sums that softmaxes divide by.

  A distribution with a value that is NaN or +inf, or without any mass, has a
  normalizer that is NaN or infinite.

  Attributes:
    teachers: float32 [..., 1] for each dense teacher, or for the one whose ids
      were kept or drawn.
    student: float32 [..., 1].
  """

  teachers: tuple[Array, ...]
  student: Array

  @property
  def finite_teachers(self) -> tuple[Array, ...]:
    """Returns for each teacher bool [...], True where it is finite."""
    return tuple(jnp.isfinite(x[..., 0]) for x in self.teachers)

  def keep_nonfinite(self, losses: Array) -> Array:
    """Returns losses [...] that are NaN where any normalizer is not finite."""
    finite = jnp.isfinite(self.student[..., 0])
    for teacher in self.finite_teachers:
      finite &= teacher
    return jnp.where(finite, losses, jnp.nan)


def _log_sum(logits, size, temperature):
  """A reduction that writes nothing of size V; jax.nn.log_softmax would."""
  scaled = logits[..., :size] / temperature
  return jax.nn.logsumexp(scaled, axis=-1, keepdims=True)


def mixture(
  teachers: tuple[tuple[Array, Array], ...],
  sums: tuple[Array, ...],
  size: int,
  temperature: Array,
) -> Array:
  """Log sum_i share_i p_i [..., size]: teachers are mixed as probabilities.

  Args:
    teachers: pairs of logits [..., V_t] and weight [].
    sums: their normalizers.
    size: ids that count, from 0.
    temperature: each teacher's, before they are mixed.
  """
  each = [
    x[..., :size] / temperature - total
    for (x, _), total in zip(teachers, sums, strict=True)
  ]
  if len(each) == 1:
    return each[0]
  shares = [jnp.log(weight) for _, weight in teachers]
  return jax.nn.logsumexp(
    jnp.stack([x + s for x, s in zip(each, shares, strict=True)]), axis=0
  )


def _picked(logits, ids):
  """Logits of the ids [..., K]; RULED_OUT for an id below 0."""
  picked = jnp.take_along_axis(logits, jnp.maximum(ids, 0), axis=-1)
  return jnp.where(ids >= 0, picked, RULED_OUT)


def _without(logits, ids):
  """Logits in which the ids [..., K] are ruled out."""
  size = logits.shape[-1]
  flat = logits.reshape(-1, size)
  index = jnp.where(ids >= 0, ids, size).reshape(flat.shape[0], -1)
  row = jnp.arange(flat.shape[0])[:, None]
  return flat.at[row, index].set(RULED_OUT, mode='drop').reshape(logits.shape)


def bucket_logprobs(teacher: types.TopK) -> Array:
  """Log-probabilities [..., K + 1] of the kept ids and of all others.

  What has no probability is RULED_OUT: 0 times that is 0.
  """
  logprobs = jnp.concatenate(
    [teacher.logprobs, teacher.tail_logprob[..., None]], axis=-1
  )
  return bounds.at_least(logprobs, RULED_OUT)


def drawn(teacher: types.Sampled) -> Array:
  """Returns which slots [..., K] are used; also where a weight is NaN."""
  return (teacher.ids >= 0) & (teacher.weights != 0)


def sparse_log_sum(teacher: types.TopK | types.Sampled) -> Array:
  """Returns a normalizer [..., 1] of kept or drawn ids; see Normalizers."""
  if isinstance(teacher, types.TopK):
    # Not of bucket_logprobs, which give mass to a distribution without any.
    tail = teacher.tail_logprob[..., None]
    logprobs = jnp.concatenate([teacher.logprobs, tail], axis=-1)
    return jax.nn.logsumexp(logprobs, axis=-1, keepdims=True)
  logprobs = jnp.where(drawn(teacher), teacher.weights * teacher.logprobs, 0.0)
  return jnp.sum(logprobs, axis=-1, keepdims=True)


def _buckets(student, teacher, temperature):
  """K ids and the tail as K + 1 outcomes, softened together.

  At temperature 1 merging the tail never raises an f-divergence (data
  processing); at another one both sides' K + 1 probabilities are raised to
  1 / T and normalised, as what lies inside the tail is not known.
  """
  total = jax.nn.logsumexp(student, axis=-1, keepdims=True)
  tail = jax.nn.logsumexp(_without(student, teacher.ids), -1, keepdims=True)
  log_q = jnp.concatenate([_picked(student, teacher.ids), tail], -1) - total
  return Pair(
    jax.nn.log_softmax(bucket_logprobs(teacher) / temperature),
    jax.nn.log_softmax(log_q / temperature),
    None,
    Normalizers((sparse_log_sum(teacher),), total),
  )


def _samples(student, teacher):
  """What was drawn, each id counted by its weight over its probability."""
  total = jax.nn.logsumexp(student, axis=-1, keepdims=True)
  used = drawn(teacher)
  log_q = jnp.where(used, _picked(student, teacher.ids) - total, 0.0)
  log_p = jnp.where(used, teacher.logprobs, 0.0)
  counts = jnp.where(used, teacher.weights, 0.0) * jnp.exp(-log_p)
  sums = Normalizers((sparse_log_sum(teacher),), total)
  return Pair(log_p, log_q, counts, sums)


def teacher_log_sums(
  teachers: tuple[tuple[Array, Array], ...], size: int, temperature: Array
) -> tuple[Array, ...]:
  """Normalizers of dense teachers over their first `size` ids."""
  return tuple(_log_sum(x, size, temperature) for x, _ in teachers)


def _shared_size(logits):
  """Ids that the student and each dense teacher have.

  Embeddings of one tokenizer may differ in padding rows; ids that one model
  lacks are left out before any softmax.
  """
  sizes = [x.shape[-1] for x, _ in logits.teacher]
  return min(logits.student.shape[-1], *sizes)


def normalizers(logits: Logits, temperature: Array) -> Normalizers:
  """Of dense teachers and the student, over the ids that all have."""
  size = _shared_size(logits)
  return Normalizers(
    teacher_log_sums(logits.teacher, size, temperature),
    _log_sum(logits.student, size, temperature),
  )


def dense_pair(logits: Logits, sums: Normalizers, temperature: Array) -> Pair:
  """Dense teachers and student over the ids that all have."""
  size = _shared_size(logits)
  return Pair(
    mixture(logits.teacher, sums.teachers, size, temperature),
    logits.student[..., :size] / temperature - sums.student,
    None,
    sums,
  )


def pair(logits: Logits, temperature: Array) -> Pair:
  """Teacher and student over the outcomes that both can speak of.

  Args:
    logits: of some tokens [...].
    temperature: float32 []; it is not applied to Sampled, whose ids were drawn
      at temperature 1.
  """
  teacher = logits.teacher
  if isinstance(teacher, types.TopK):
    return _buckets(logits.student, teacher, temperature)
  if isinstance(teacher, types.Sampled):
    return _samples(logits.student, teacher)
  return dense_pair(logits, normalizers(logits, temperature), temperature)
