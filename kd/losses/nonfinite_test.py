"""Values that are not finite in every loss, which must report them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import attention_mask
from kd.core import types
from kd.losses import attention_maps
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import distributions_test as sparse
from kd.losses import eval_sums
from kd.losses import hidden_states
from kd.losses import layer_maps
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import sparse_distributions
from kd.losses import term_builder

# At this size XLA's CPU kernels for maxima return a number where one operand is
# NaN. They don't for a few small rows.
ROWS, LENGTH, VOCAB, WIDTH = 4, 32, 264, 8
AT = 1, 5  # A target.
UNCOUNTED = 2, 3
KINDS = ('dense', 'mixture', 'top_k', 'sampled', 'stratified')
BAD = {
  'nan': np.nan,
  'plus_inf': np.inf,
  # Legal for a single id, which is then excluded, but not for all ids.
  'minus_inf': -np.inf,
}


def _logits(seed):
  return np.random.default_rng(seed).normal(size=(ROWS, LENGTH, VOCAB)) * 2


def _batch():
  weights = np.ones((ROWS, LENGTH), np.float32)
  weights[UNCOUNTED] = 0
  zeros = np.zeros((ROWS, LENGTH), np.int32)
  return types.Batch(
    tokens=zeros,
    targets=zeros + 7,
    positions=zeros + np.arange(LENGTH, dtype=np.int32),
    segment_ids=zeros + 1,
    parts=zeros,
    weights=weights,
    row_id=np.arange(ROWS, dtype=np.int32),
  )


def _spoil(x, at, value, whole=False):
  """Returns x [B, L, K] with a bad value at a position."""
  x = np.array(x, np.float32)
  x[at][... if whole or np.isneginf(value) else 3] = value
  return x


def _dense(logits, weight=1.0):
  # Logits themselves as hidden states, under a unit unembedding.
  hidden = jnp.asarray(logits, jnp.float32)
  return dense_distributions.DenseTeacher(
    hidden, jnp.eye(VOCAB), jnp.float32(weight)
  )


def _distribution(kind, at=None, value=0.0):
  """Returns a teacher's distribution with a bad value at a position."""
  logits = _logits(1)
  spoil = lambda x: x if at is None else _spoil(x, at, value)
  if kind == 'dense':
    # Hidden states that are -inf give NaN times the zeros of the unembedding.
    return dense_distributions.DenseMixture((_dense(spoil(logits)),))
  if kind == 'mixture':
    teachers = _dense(_logits(2), 0.5), _dense(spoil(logits), 0.5)
    return dense_distributions.DenseMixture(teachers)
  kept = jax.tree.map(np.asarray, sparse.top_k(logits, 6))
  if kind == 'top_k':
    tail = np.array(kept.tail_logprob)
    if at is not None and np.isneginf(value):
      tail[at] = value
    return sparse_distributions.TopK(kept.ids, spoil(kept.logprobs), tail)
  weights = np.full(kept.ids.shape, 1 / 6, np.float32)
  if kind == 'stratified':
    weights[..., :3] = np.exp(kept.logprobs[..., :3])
  return sparse_distributions.Sampled(kept.ids, spoil(kept.logprobs), weights)


def _objective(names, rule='all', fraction=1.0):
  specs = {}
  for name in names:
    own = sparse.OWN.get(name, {'label_smoothing': 0.1, 'z_loss': 0.1})
    clip = {'clip': 2.0} if name in sparse.OWN else {}
    specs[name] = base.term(name, **clip, **own).to_dict()
  kept = selection.build({'rule': rule, 'fraction': fraction}, '', 10)
  terms = term_builder.build(specs, sparse.CONTEXT)
  return objective_lib.Objective(terms, kept, 1000)


def _run(objective):
  """Returns the function to the total, its gradient and its Sums."""
  unembedding, batch = jnp.eye(VOCAB), _batch()
  settings = objective.settings(batch, 0)

  @jax.jit
  def run(hidden, distribution):
    targets = distributions.Targets(distribution, None)
    kept, bad = selection.select(
      objective.selection,
      settings.fraction,
      hidden,
      unembedding,
      targets,
      batch,
      jax.random.key(0),
      1000,
    )

    def loss(hidden):
      return objective.logits_total(
        hidden, unembedding, targets, kept, settings
      )

    (total, sums), gradient = jax.value_and_grad(loss, has_aux=True)(hidden)
    return total, gradient, sums.replace(nonfinite=sums.nonfinite + bad)

  return lambda student, distribution: run(
    jnp.asarray(student, jnp.float32), distribution
  )


@functools.cache
def _compiled(*arguments):
  """Returns `_run`; samples of both kinds then share a program."""
  return _run(_objective(*arguments))


def _names(kind):
  """The divergences that can be computed for a kind of teacher."""
  is_drawn = kind in ('sampled', 'stratified')
  return sorted(set(sparse.OWN) - ({'adaptive_kl'} if is_drawn else set()))


@pytest.mark.parametrize('kind', KINDS)
def test_every_divergence_is_nonfinite_for_bad_models(kind):
  names = _names(kind)
  run = _compiled(tuple(names))
  good_student, good_teacher = _logits(0), _distribution(kind)
  clean = run(good_student, good_teacher)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(clean))
  assert not clean[2].nonfinite.any()
  for value in BAD.values():
    bad = _distribution(kind, AT, value)
    total, _, sums = run(good_student, bad)
    assert not np.isfinite([total, *sums.losses.values()]).any(), sums
    # Each term counts the position once.
    expected = [0, len(names)] if kind == 'mixture' else [len(names)]
    np.testing.assert_array_equal(sums.nonfinite, expected)

    total, _, sums = run(_spoil(good_student, AT, value), good_teacher)
    assert not np.isfinite([total, *sums.losses.values()]).any(), sums
    assert not sums.nonfinite.any()

    got = run(
      _spoil(good_student, UNCOUNTED, value, whole=True),
      _distribution(kind, UNCOUNTED, value),
    )
    jax.tree.map(np.testing.assert_array_equal, got, clean)


def test_cross_entropy_is_nonfinite_for_a_bad_student():
  run = _compiled(('cross_entropy',))
  for value in (np.nan, np.inf):
    total, _, _ = run(_spoil(_logits(0), AT, value), _distribution('dense'))
    assert not np.isfinite(total)


@pytest.mark.parametrize('kind', KINDS)
def test_selection_does_not_hide_a_bad_teacher(kind):
  # At positions that the rule keeps, the term uses only labels.
  run = _compiled(('cross_entropy',), 'teacher_entropy', 0.25)
  clean = run(_logits(0), _distribution(kind))
  assert np.isfinite(clean[0]) and not clean[2].nonfinite.any()
  for value in BAD.values():
    bad = _distribution(kind, AT, value)
    total, _, sums = run(_logits(0), bad)
    assert not np.isfinite(total), value
    expected = [0.0, 1.0] if kind == 'mixture' else [1.0]
    np.testing.assert_array_equal(sums.nonfinite, expected)


def test_selection_does_not_hide_a_bad_student():
  run = _compiled(('cross_entropy',), 'student_entropy', 0.25)
  total, _, _ = run(_spoil(_logits(0), AT, np.nan), _distribution('dense'))
  assert not np.isfinite(total)


def test_a_bad_teacher_is_counted_at_positions_without_weight():
  """The loss is NaN there too, whatever the term's weight."""
  spec = base.term('forward_kl', part='rationale').to_dict()
  terms = term_builder.build({'kl': spec}, sparse.CONTEXT)
  everywhere = selection.build({'rule': 'all', 'fraction': 1.0}, '', 10)
  run = _run(objective_lib.Objective(terms, everywhere, 1000))
  teacher = _distribution('mixture', AT, np.nan)
  total, _, sums = run(_logits(0), teacher)
  assert not np.isfinite(total)
  np.testing.assert_array_equal(sums.nonfinite, [0, 1])


def test_accuracy_is_nan_where_one_logit_is_infinite():
  unembedding, hidden = np.eye(VOCAB), _logits(0)
  unembedding[3, 3], hidden[..., 3] = 1e20, hidden[..., 3] / 1e20
  hidden[AT][3] = 1e25  # Its logit overflows; the others are finite.
  got = eval_sums.by_row(
    jnp.asarray(hidden, jnp.float32),
    jnp.asarray(unembedding, jnp.float32),
    None,
    _batch(),
    1000,
  )
  one = np.eye(ROWS)[AT[0]]
  np.testing.assert_array_equal(got['nonfinite'], one[:, None])
  np.testing.assert_array_equal(np.isnan(got['accuracy']), one)


def test_evaluation_counts_bad_models():
  @jax.jit
  def sums(student, distribution):
    return eval_sums.by_row(
      jnp.asarray(student, jnp.float32),
      jnp.eye(VOCAB),
      distributions.Targets(distribution, None),
      _batch(),
      1000,
    )

  one = np.eye(ROWS)[AT[0]]
  zero = 0 * one
  good_student, good_teacher = _logits(0), _distribution('mixture')
  for value in (np.nan, np.inf):
    student = _spoil(good_student, AT, value)
    teacher = _distribution('mixture', AT, value)
    for got, expected in (
      (sums(good_student, teacher), (zero, zero, one)),
      (sums(student, good_teacher), (one, zero, zero)),
      (sums(student, teacher), (one, zero, one)),
    ):
      np.testing.assert_array_equal(got['nonfinite'], np.stack(expected, -1))
      # NaN does not agree with itself.
      for key in ('agreement', 'kl'):
        np.testing.assert_array_equal(np.isnan(got[key]), one)


@pytest.mark.parametrize('kind', sorted(hidden_states.KINDS))
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_bad_hidden_states_give_a_nonfinite_loss(kind, value):
  rng = np.random.default_rng(0)
  clean = rng.normal(size=(2, ROWS, LENGTH, WIDTH)).astype(np.float32)
  path = jax.vmap(
    lambda k: hidden_states.init_projection(k, WIDTH, WIDTH, True)
  )(jax.random.split(jax.random.key(0)))
  loss = jax.jit(
    lambda s, t: hidden_states.layers_loss(kind, path, s, t, 0.0, None)
  )
  for fill in (None, 0.0):
    bad = np.array(clean)
    if fill is not None:
      bad[(0, *AT)] = fill  # Else all zeros, which have no direction.
    bad[(0, *AT, 2)] = value
    for got in (loss(clean, bad), loss(bad, clean)):
      assert not np.isfinite(got[AT])
      assert np.isfinite(np.delete(got.ravel(), AT[0] * LENGTH + AT[1])).all()


@pytest.mark.parametrize('heads', attention_maps.HEADS)
def test_bad_attention_gives_a_nonfinite_loss(heads):
  rng = np.random.default_rng(0)
  batch = _batch()

  def one(query=None, key=None):
    q = rng.normal(size=(ROWS, LENGTH, 4, WIDTH)).astype(np.float32)
    k = rng.normal(size=(ROWS, LENGTH, 2, WIDTH)).astype(np.float32)
    for x, value in ((q, query), (k, key)):
      if value is not None:
        x[AT][1, 2] = value
    return attention_maps.Heads(q, k, 0.3)

  loss = jax.jit(
    lambda s, t: attention_maps.map_loss(
      s._replace(scale=0.3),
      t._replace(scale=0.3),
      attention_mask.Positions(batch.positions, batch.segment_ids),
      window=None,
      temperature=1.0,
      heads=heads,
      block=16,
    )
  )
  assert np.isfinite(loss(one(), one())).all()
  for value in (np.nan, np.inf):
    for bad in (one(query=value), one(key=value)):
      assert not np.isfinite(loss(bad, one())[AT])
      assert not np.isfinite(loss(one(), bad)[AT])


def test_a_bad_layer_is_not_mapped_to_similarity_zero():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(3, ROWS, LENGTH, WIDTH)).astype(np.float32)
  hidden[2] = 1.0  # Does not vary.
  bad = np.array(hidden)
  bad[(1, *AT, 2)] = np.nan
  got = layer_maps.similarity(hidden, bad, _batch().weights)
  assert np.isnan(got[:2, 1]).all()
  assert np.isfinite(got[:2, [0, 2]]).all() and not got[2, [0, 2]].any()
  uncounted = np.array(hidden)
  uncounted[(1, *UNCOUNTED)] = np.nan
  assert np.isfinite(
    layer_maps.similarity(hidden, uncounted, _batch().weights)
  ).all()
