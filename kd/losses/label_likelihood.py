"""Computes log-probabilities of labels in chunks of tokens, to save memory.

Unlike the terms of objective.py, losses of these may depend on several tokens.
Their gradients are known only after all chunks, so the backward pass computes
logits a second time.
"""

import functools

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import chunks
from kd.losses import cross_entropy
from kd.partitioning import rules

Array = types.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_probabilities(
  chunk_tokens: int,
  hidden: Array,
  unembedding: Array,
  labels: Array,
  counted: Array,
) -> Array:
  """Computes log softmax(logits)[label] of a batch's tokens.

  Differentiable once, in `hidden` and `unembedding`.

  Args:
    chunk_tokens: tokens per device whose logits are computed at a time.
    hidden: [B, L, D], final hidden states.
    unembedding: [V, D].
    labels: int32 [B, L].
    counted: bool [B, L], whether to compute each token.

  Returns:
    float32 [B, L], in nats; 0 where `counted` is False.
  """
  layout = chunks.Layout(counted, chunk_tokens)

  def add(out, chunk, index):
    hidden_c, labels_c = chunk
    logits = chunks.project(hidden_c, unembedding)
    nll = cross_entropy.negative_log_likelihood(logits, labels_c)
    return layout.put(out, -nll, index)

  out = jnp.zeros(labels.shape)
  out = chunks.fold(add, out, layout, (hidden, labels))
  return jnp.where(counted, out, 0.0)


def _forward(chunk_tokens, *arguments):
  hidden, unembedding, labels, counted = (x.value for x in arguments)
  out = log_probabilities(chunk_tokens, hidden, unembedding, labels, counted)
  # A flag in the tree's structure: () if the unembedding is trained, else None.
  is_trained = () if arguments[1].perturbed else None
  return out, (hidden, unembedding, labels, counted, is_trained)


def _backward(chunk_tokens, residuals, cotangent):
  hidden, unembedding, labels, counted, is_trained = residuals
  cotangent = jnp.where(counted, cotangent, 0.0)
  layout = chunks.Layout(counted, chunk_tokens)

  def add(carry, chunk, index):
    d_hidden, d_unembedding = carry
    hidden_c, labels_c, cotangent_c = chunk
    logits = chunks.project(hidden_c, unembedding)
    _, pull = jax.vjp(
      lambda x: -cross_entropy.negative_log_likelihood(x, labels_c), logits
    )
    (d_logits,) = pull(cotangent_c)
    d_chunk, d_unembedding = chunks.pull_back(
      d_logits.astype(hidden.dtype),
      chunks.gather(hidden_c),
      unembedding,
      d_unembedding,
    )
    d_chunk = d_chunk.astype(hidden.dtype)
    return layout.put(d_hidden, d_chunk, index), d_unembedding

  d_unembedding = None
  if is_trained is not None:
    d_unembedding = rules.constrain(
      jnp.zeros(unembedding.shape), ('vocab', 'table_width')
    )
  carry = jnp.zeros_like(hidden), d_unembedding
  d_hidden, d_unembedding = chunks.fold(
    add, carry, layout, (hidden, labels, cotangent)
  )
  return d_hidden, d_unembedding, None, None


log_probabilities.defvjp(_forward, _backward, symbolic_zeros=True)
