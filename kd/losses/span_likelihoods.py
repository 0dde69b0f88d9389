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

  It covers only the tokens of the text, so terms that use next-token
  distributions cannot be computed from it.

  Attributes:
    log_p: float32 [B, L], log-likelihood of the span of each student target, in
      nats; 0 outside of spans.
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
    raise TypeError('span likelihoods have no token distributions')


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
    tokens: the teacher's rows.
    chunk_tokens: tokens per device whose logits are computed at a time.
  """
  log_p = label_likelihood.log_probabilities(
    chunk_tokens, hidden, unembedding, tokens.targets, tokens.spans > 0
  )
  own = tokens.student_spans
  by_span = spans.sums(log_p, tokens.spans, own.shape[1])
  return SpanLikelihoods(jnp.where(own > 0, spans.at_tokens(by_span, own), 0.0))
