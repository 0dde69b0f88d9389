"""The objective: weighted terms over chunks of tokens.

Logits of a whole batch do not fit in memory, so they are made chunk by chunk
from hidden states and the output embedding. The gradient is made in the same
pass: nothing of size tokens x V is kept for a backward one.
"""

from collections.abc import Callable, Mapping, Sequence
import functools

import jax
import jax.numpy as jnp

from kd.core import types
from kd.losses import divergences
from kd.losses import task
from kd.losses import terms as terms_lib
from kd.partitioning import rules

Array = types.Array


def _to_chunks(x, positions):
  """[B, L, ...] to [L / positions, B, positions, ...], zeros at the end."""
  batch, length = x.shape[:2]
  count = -(-length // positions)
  padding = [(0, 0)] * x.ndim
  padding[1] = (0, count * positions - length)
  x = jnp.pad(x, padding)
  return jnp.moveaxis(x.reshape(batch, count, positions, *x.shape[2:]), 1, 0)


def _from_chunks(x, length):
  """The inverse of _to_chunks."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _project(hidden, unembedding):
  logits = jnp.einsum(
    'bld,vd->blv',
    hidden,
    unembedding.astype(hidden.dtype),
    preferred_element_type=jnp.float32,
  )
  return rules.constrain(logits, ('batch', None, 'vocab'))


def _loss_logits(student, targets, hidden_t, labels):
  """What terms read; of the teacher only ids that the student has."""
  if targets is None:
    return terms_lib.Logits(student=student, teacher=None, labels=labels)
  shared = min(student.shape[-1], targets.unembedding.shape[0])
  return terms_lib.Logits(
    student=student,
    teacher=_project(hidden_t, targets.unembedding[:shared]),
    labels=labels,
  )


def scan_chunks(
  function: Callable[..., types.PyTree],
  empty: types.PyTree,
  hidden: Array,
  targets: types.Targets | None,
  labels: Array,
  weights: Array,
  chunk_tokens: int,
) -> types.PyTree:
  """Sums a function over chunks of positions; skips those without weight.

  Args:
    function: of (sums so far, hidden [B, C, D], teacher's hidden [B, C, D_t]
      or None, labels [B, C], weights [B, C]); returns (sums, output [B, C,
      ...] or None).
    empty: the sums before the first chunk.
    hidden: [B, L, D].
    targets: the teacher's, or None.
    labels: int32 [B, L].
    weights: float32 [B, L].
    chunk_tokens: B x C at most, where B allows it.

  Returns:
    The sums, and the outputs as [B, L, ...] (zeros in skipped chunks).
  """
  batch, length = labels.shape
  positions = max(1, min(length, chunk_tokens // batch))
  inputs = jax.tree.map(
    lambda x: _to_chunks(x, positions),
    (hidden, targets and targets.final_hidden, labels, weights),
  )

  def body(sums, chunk):
    shape = jax.eval_shape(function, sums, *chunk)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    return jax.lax.cond(
      jnp.any(chunk[-1] != 0),
      lambda: function(sums, *chunk),
      lambda: (sums, zeros),
    )

  sums, outputs = jax.lax.scan(body, empty, inputs)
  return sums, jax.tree.map(lambda x: _from_chunks(x, length), outputs)


def _run(
  terms,
  chunk_tokens,
  with_gradient,
  hidden,
  unembedding,
  targets,
  labels,
  weights,
  scales,
):
  """Sums of the terms and, if asked for, gradients of their scaled total."""

  def chunk_sums(student, hidden_t, labels_c, weights_c):
    logits = _loss_logits(student, targets, hidden_t, labels_c)
    # Where a target does not count its loss may be anything, NaN included.
    counted = weights_c != 0
    sums = {}
    for term in terms:
      losses = jnp.where(counted, term.per_token(logits), 0.0)
      sums[term.key] = jnp.sum(losses * weights_c)
    total = sum(scales[key] * value for key, value in sums.items())
    return total, sums

  def chunk(carry, hidden_c, hidden_t, labels_c, weights_c):
    sums, d_unembedding = carry
    student = _project(hidden_c, unembedding)
    if not with_gradient:
      _, new = chunk_sums(student, hidden_t, labels_c, weights_c)
      return (jax.tree.map(jnp.add, sums, new), d_unembedding), None
    d_logits, new = jax.grad(chunk_sums, has_aux=True)(
      student, hidden_t, labels_c, weights_c
    )
    d_logits = d_logits.astype(hidden_c.dtype)
    d_hidden = jnp.einsum(
      'blv,vd->bld', d_logits, unembedding.astype(hidden_c.dtype)
    )
    d_unembedding += jnp.einsum(
      'blv,bld->vd', d_logits, hidden_c, preferred_element_type=jnp.float32
    )
    return (jax.tree.map(jnp.add, sums, new), d_unembedding), d_hidden

  zeros = {term.key: jnp.zeros((), jnp.float32) for term in terms}
  gradient = jnp.zeros(unembedding.shape if with_gradient else ())
  if with_gradient:
    gradient = rules.constrain(gradient, ('vocab', 'embed'))
  (sums, gradient), d_hidden = scan_chunks(
    chunk, (zeros, gradient), hidden, targets, labels, weights, chunk_tokens
  )
  return sums, d_hidden, gradient


def _total(sums, scales):
  return sum(scales[key] * value for key, value in sums.items())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _objective(
  terms, chunk_tokens, hidden, unembedding, targets, labels, weights, scales
):
  sums, _, _ = _run(
    terms,
    chunk_tokens,
    False,
    hidden,
    unembedding,
    targets,
    labels,
    weights,
    scales,
  )
  return _total(sums, scales), sums


def _objective_forward(
  terms, chunk_tokens, hidden, unembedding, targets, labels, weights, scales
):
  sums, d_hidden, d_unembedding = _run(
    terms,
    chunk_tokens,
    True,
    hidden,
    unembedding,
    targets,
    labels,
    weights,
    scales,
  )
  return (_total(sums, scales), sums), (d_hidden, d_unembedding)


def _objective_backward(terms, chunk_tokens, residuals, cotangents):
  del terms, chunk_tokens
  d_hidden, d_unembedding = residuals
  scale = cotangents[0]
  return (
    (d_hidden * scale).astype(d_hidden.dtype),
    d_unembedding * scale,
    None,
    None,
    None,
    None,
  )


_objective.defvjp(_objective_forward, _objective_backward)


def scales(
  terms: Sequence[terms_lib.Term], total_weight: Array
) -> dict[str, Array]:
  """What each term's sum is multiplied by: its weight over that of targets.

  Args:
    terms: the terms.
    total_weight: float32 [], the sum of target weights over the whole batch,
      all micro-batches and devices; where it is 0 every scale is 0.
  """
  inverse = jnp.where(
    total_weight > 0, 1.0 / jnp.maximum(total_weight, 1e-9), 0.0
  )
  return {term.key: term.weight * inverse for term in terms}


def objective(
  terms: Sequence[terms_lib.Term],
  hidden: Array,
  unembedding: Array,
  targets: types.Targets | None,
  batch: types.Batch,
  term_scales: Mapping[str, Array],
  chunk_tokens: int,
) -> tuple[Array, dict[str, Array]]:
  """The total and each term's sum over a batch's tokens.

  Differentiable once, in `hidden` and `unembedding`; the sums are for metrics
  and carry no gradient.

  Args:
    terms: what is summed.
    hidden: [B, L, D], the student's final hidden states.
    unembedding: float32 [V, D].
    targets: the teacher's, or None if no term needs them.
    batch: rows, see types.Batch.
    term_scales: from scales().
    chunk_tokens: tokens whose logits exist at one time.

  Returns:
    float32 [], sum over terms of scale x sum; and {key: sum} where a sum is
    over tokens of target weight x loss.
  """
  if not any(term.needs_teacher for term in terms):
    targets = None
  return _objective(
    tuple(terms),
    chunk_tokens,
    hidden,
    unembedding,
    jax.lax.stop_gradient(targets),
    batch.targets,
    batch.weights,
    dict(term_scales),
  )


def statistics(
  hidden: Array,
  unembedding: Array,
  targets: types.Targets | None,
  batch: types.Batch,
  chunk_tokens: int,
) -> dict[str, Array]:
  """Per-row sums over target tokens, for evaluation.

  Args:
    hidden: [B, L, D].
    unembedding: [V, D].
    targets: the teacher's, or None.
    batch: rows.
    chunk_tokens: tokens whose logits exist at one time.

  Returns:
    float32 [B] each: 'weight', 'nll' in nats and, with a teacher, 'kl' to it
    in nats at temperature 1 and 'agreement', the weight of targets at which
    both models' most likely tokens are the same.
  """

  def chunk(sums, hidden_c, hidden_t, labels, weights):
    student = _project(hidden_c, unembedding)
    logits = _loss_logits(student, targets, hidden_t, labels)
    values = {'nll': task.negative_log_likelihood(student, labels)}
    if targets is not None:
      pair = logits.shared()
      values['kl'] = divergences.forward_kl_per_token(*pair, 1.0)
      best = [jnp.argmax(x, -1) for x in pair]
      values['agreement'] = (best[0] == best[1]).astype(jnp.float32)
    weighted = {
      k: jnp.where(weights != 0, v, 0.0) * weights for k, v in values.items()
    }
    weighted['weight'] = weights
    return {k: sums[k] + jnp.sum(v, -1) for k, v in weighted.items()}, None

  keys = ['weight', 'nll'] + (['kl', 'agreement'] if targets else [])
  empty = {key: jnp.zeros(batch.weights.shape[0]) for key in keys}
  sums, _ = scan_chunks(
    chunk,
    empty,
    hidden,
    targets,
    batch.targets,
    batch.weights,
    chunk_tokens,
  )
  return sums
