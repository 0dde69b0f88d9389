"""Holds a teacher's likelihoods of aligned spans of tokens."""

from flax import struct
import jax.numpy as jnp

from kd.core import types
from kd.losses import distributions
from kd.losses import label_likelihood
from kd.losses import spans

Array = types.Array


@struct.dataclass
class SpanLikelihoods(distributions.Distribution):
  """A teacher's log-likelihoods of aligned spans of tokens.

  It says nothing of other tokens than those of the text: of the terms that read
  next-token distributions, none can be computed from it.

  Attributes:
    log_p: float32 [B, L], at each target of the student that of its span, in
      nats; 0 in no span.
  """

  log_p: Array

  @property
  def num_teachers(self) -> int:
    return 1

  def per_position(self) -> Array:
    return self.log_p

  def with_positions(self, arrays: Array) -> 'SpanLikelihoods':
    return SpanLikelihoods(arrays)

  def project(self, vocab_size):
    del vocab_size
    raise TypeError('likelihoods of spans are no distributions of tokens')


def of(
  hidden: Array,
  unembedding: Array,
  tokens: types.TeacherTokens,
  chunk_tokens: int,
) -> SpanLikelihoods:
  """Computes a teacher's log-likelihoods of a batch's spans.

  Args:
    hidden: [B, M, D], the teacher's final hidden states.
    unembedding: [V, D].
    tokens: the rows that it has read.
    chunk_tokens: tokens per device whose logits are held at a time.
  """
  log_p = label_likelihood.log_probabilities(
    chunk_tokens, hidden, unembedding, tokens.targets, tokens.spans > 0
  )
  own = tokens.student_spans
  by_span = spans.sums(log_p, tokens.spans, own.shape[1])
  return SpanLikelihoods(jnp.where(own > 0, spans.at_tokens(by_span, own), 0.0))
