"""Sums over aligned spans of tokens: see types.TeacherTokens."""

import jax
import jax.numpy as jnp

from kd.core import types

Array = types.Array


def sums(values: Array, spans: Array, count: int) -> Array:
  """Sums values by span.

  Args:
    values: float32 [B, N].
    spans: int32 [B, N], 0 to `count`.
    count: maximum number of spans per row.

  Returns:
    float32 [B, count + 1]; entry 0 sums the values outside of spans.
  """
  one = lambda x, s: jax.ops.segment_sum(x, s, count + 1)
  return jax.vmap(one)(values, spans)


def at_tokens(values: Array, spans: Array) -> Array:
  """Returns the value of each token's span: [B, N].

  Args:
    values: [B, count + 1], by span.
    spans: int32 [B, N].
  """
  return jnp.take_along_axis(values, spans, axis=1)


def last(spans: Array) -> Array:
  """Returns whether a span ends at each token, bool [B, N]."""
  following = jnp.pad(spans[:, 1:], ((0, 0), (0, 1)))
  return (spans > 0) & (spans != following)


def weights(weights: Array, spans: Array) -> Array:
  """Returns the weights of spans, each at its last token.

  The weight of a span is the mean weight of its tokens, or 0 if one of them
  does not count, since spans are never cut.

  Args:
    weights: float32 [B, N], weights of tokens; 0 for those that do not count.
    spans: int32 [B, N].

  Returns:
    float32 [B, N], 0 where no span ends.
  """
  count = spans.shape[1]
  parts = jnp.stack([weights, weights == 0, jnp.ones_like(weights)])
  total, cut, size = jax.vmap(lambda x: sums(x, spans, count))(parts)
  mean = jnp.where(cut > 0, 0.0, total / jnp.maximum(size, 1))
  return jnp.where(last(spans), at_tokens(mean, spans), 0.0)
