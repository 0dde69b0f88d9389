"""Sums by teacher are weighted by its share of each target."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import objective
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms

_B, _L, _V, _D = 2, 7, 11, 5
_SIZES = terms.Sizes(1, 1, 1, 1, 1, 1.0, (None,))


def test_sums_per_teacher_use_its_share_of_the_weights():
  rng = np.random.default_rng(9)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  specs = {
    'kl': base.term('forward_kl', clip=0.5),
    'ce': base.term('cross_entropy'),
  }
  built = objective.Objective(
    term_builder.build(
      {k: x.to_dict() for k, x in specs.items()},
      terms.Context(9, _SIZES, _SIZES),
    ),
    selection.everywhere(),
    chunk_tokens=4,
  )
  shares = rng.dirichlet([1, 1, 1], (_B, _L)).astype(np.float32)
  shares[0, 3] = 0, 0, 1
  zeros = jnp.zeros((_B, _L), jnp.int32)
  batch = types.Batch(
    tokens=zeros,
    targets=jnp.asarray(rng.integers(0, _V, (_B, _L)), jnp.int32),
    positions=zeros,
    segment_ids=zeros,
    parts=zeros,
    weights=jnp.asarray(rng.uniform(0.5, 2, (_B, _L)), jnp.float32),
    row_id=zeros[:, 0],
    teacher_weights=jnp.asarray(shares),
  )
  teacher = dense_distributions.DenseTeacher(
    normal(_B, _L, 3), normal(_V, 3), jnp.ones(())
  )
  mixture = dense_distributions.DenseMixture((teacher,))
  targets = distributions.Targets(mixture, None)
  hidden, table = normal(_B, _L, _D), normal(_V, _D)
  settings = built.settings(batch, 0)
  sums = jax.jit(
    lambda batch: built.logits_total(hidden, table, targets, batch, settings)[1]
  )
  found = sums(batch).by_teacher
  assert found.keys() == {'kl'}
  for i in range(3):
    part = sums(batch.replace(weights=batch.weights * shares[..., i]))
    np.testing.assert_allclose(found['kl'][i], part.losses['kl'], 2e-5)
  totals = settings.teacher_totals['kl']
  expected = np.einsum('bl,bln->n', batch.weights, shares)
  np.testing.assert_allclose(totals, expected, 1e-5)
