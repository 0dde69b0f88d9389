"""Selected positions against brute force; no others are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import errors
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import sparse_distributions
from kd.losses import term_builder
from kd.losses import terms

B, L, D, V = 3, 17, 4, 11
ONE = jnp.ones(())


def make(seed=0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  weights = rng.uniform(0.5, 2, (B, L)) * (rng.uniform(size=(B, L)) < 0.7)
  weights[2] = 0
  parts = rng.integers(0, 3, (B, L))
  zeros = jnp.zeros((B, L), jnp.int32)
  batch = types.Batch(
    tokens=zeros,
    targets=zeros,
    positions=zeros,
    segment_ids=zeros,
    parts=jnp.asarray(parts, jnp.int32),
    weights=jnp.asarray(weights, jnp.float32),
    row_id=jnp.array([7, 3, 5], jnp.int32),
  )
  dense = dense_distributions.DenseTeacher(normal(B, L, D), normal(V, D), ONE)
  return (
    normal(B, L, D),
    normal(V, D),
    distributions.Targets(dense_distributions.DenseMixture((dense,)), None),
    batch,
  )


def select(rule, fraction, hidden, unembedding, targets, batch, seed=0):
  chosen = selection.build({'rule': rule, 'fraction': fraction}, 'p', 10)
  kept, _ = selection.select(
    chosen,
    jnp.float32(fraction),
    hidden,
    unembedding,
    targets,
    batch,
    jax.random.key(seed),
    chunk_tokens=6,
  )
  return kept


def entropies(hidden, unembedding):
  logits = np.asarray(hidden, np.float64) @ np.asarray(unembedding).T
  p = np.exp(logits)
  p /= p.sum(-1, keepdims=True)
  return -(p * np.log(p)).sum(-1)


@pytest.mark.parametrize('rule', ['student_entropy', 'teacher_entropy'])
@pytest.mark.parametrize('fraction', [0.3, 1.0])
def test_the_highest_entropies_of_each_part_of_each_row_are_kept(
  rule, fraction
):
  hidden, unembedding, targets, batch = make()
  kept = select(rule, fraction, hidden, unembedding, targets, batch)
  (dense,) = targets.distribution.teachers
  score = entropies(hidden, unembedding)
  if rule == 'teacher_entropy':
    score = entropies(dense.final_hidden, dense.unembedding)
  expected = np.zeros((B, L))
  for row in range(B):
    for part in (types.ANSWER, types.RATIONALE, types.SAMPLED):
      counted = (batch.weights[row] > 0) & (batch.parts[row] == part)
      where = np.flatnonzero(counted)
      best = where[np.argsort(-score[row, where])]
      best = best[: int(np.ceil(np.float32(fraction) * len(where)))]
      weights = np.asarray(batch.weights[row], np.float64)
      if len(best):
        expected[row, best] = (
          weights[best] * weights[where].sum() / weights[best].sum()
        )
  np.testing.assert_allclose(kept.weights, expected, rtol=1e-5)


def test_random_positions_depend_only_on_row_and_key():
  hidden, unembedding, _, batch = make()
  one = select('random', 0.5, hidden, unembedding, None, batch)
  turned = jax.tree.map(lambda x: x[::-1], batch)
  two = select('random', 0.5, hidden, unembedding, None, turned)
  np.testing.assert_array_equal(one.weights, two.weights[::-1])
  other = select('random', 0.5, hidden, unembedding, None, batch, seed=1)
  assert ((one.weights > 0) != (other.weights > 0)).any()
  same = batch.replace(
    weights=jnp.ones((B, L)), parts=jnp.zeros((B, L), jnp.int32)
  )
  kept = select('random', 0.5, hidden, unembedding, None, same).weights > 0
  assert (kept[0] != kept[1]).any()


def test_a_sparse_teachers_entropy_needs_no_logits():
  _, unembedding, _, batch = make()
  rng = np.random.default_rng(1)
  p = rng.dirichlet(np.ones(5), (B, L))
  # The last slot is not used.
  unused = np.zeros((B, L, 1))
  top = sparse_distributions.TopK(
    ids=jnp.zeros((B, L, 5), jnp.int32).at[..., 4].set(-1),
    logprobs=jnp.log(
      jnp.asarray(np.concatenate([p[..., :4], unused], -1), jnp.float32)
    ),
    tail_logprob=jnp.log(jnp.asarray(p[..., 4], jnp.float32)),
  )
  kept = select(
    'teacher_entropy',
    0.4,
    None,
    unembedding,
    distributions.Targets(top, None),
    batch.replace(parts=jnp.zeros_like(batch.parts)),
  )
  entropy = -(p * np.log(p)).sum(-1)
  for row in range(2):
    counted = np.asarray(batch.weights[row] > 0)
    chosen = np.asarray(kept.weights[row] > 0)
    assert chosen.sum() == np.ceil(0.4 * counted.sum())
    assert entropy[row, chosen].min() > entropy[row, counted & ~chosen].max()


def test_dropped_positions_are_not_computed():
  # NaN in the hidden states of dropped positions must not matter.
  hidden, unembedding, targets, batch = make()
  kept = select('random', 0.3, hidden, unembedding, None, batch)
  spoilt = jnp.where(kept.weights[..., None] > 0, hidden, jnp.nan)
  sizes = terms.Sizes(1, 1, 1, 1, 1, 1.0, (None,))
  objective = objective_lib.Objective(
    term_builder.build(
      {'kl': base.term('forward_kl').to_dict()},
      terms.Context(steps=1, student=sizes, teacher=sizes),
    ),
    selection.everywhere(),
    6,
  )
  settings = objective.settings(batch, 0)
  totals = [
    objective.logits_total(h, unembedding, targets, b, settings)
    for h, b in ((hidden, kept), (spoilt, kept), (hidden, batch))
  ]
  assert totals[0][0] == totals[1][0] != totals[2][0]


@pytest.mark.parametrize(
  'spec,words',
  [
    (dict(rule='entropy', fraction=0.5), ('p.rule', 'student_entropy')),
    (dict(rule='random', fraction=0.0), ('p.fraction', 'above 0')),
    (dict(rule='random', fraction=1.5), ('p.fraction', 'up to 1')),
    (dict(rule='all', fraction=0.5), ('p.fraction', 'another rule')),
    (dict(rule='random', fraction=0.5, top=1), ('p.top', 'fraction')),
  ],
)
def test_wrong_selections_are_named(spec, words):
  with pytest.raises(errors.ConfigError) as e:
    selection.build(spec, 'p', 10)
  assert all(word in str(e.value) for word in words), str(e.value)
