"""Tests the objective's values on meshes and the arrays of its program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.config import base
from kd.core import types
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import sparse_distributions
from kd.losses import term_builder
from kd.losses import terms
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from tests import hlo_arrays

B, L, D, D_T, V, K = 8, 96, 16, 24, 1024, 4
SIZES = terms.Sizes(1, 1, 1, 1, 1, 1.0, (None,))
CONTEXT = terms.Context(steps=10, student=SIZES, teacher=SIZES)
LOSSES = ('forward_kl', 'jensen_shannon', 'total_variation', 'cross_entropy')


def _objective(names, chunk_tokens):
  specs = {name: base.term(name).to_dict() for name in names}
  return objective_lib.Objective(
    term_builder.build(specs, CONTEXT), selection.everywhere(), chunk_tokens
  )


def _arguments(kind):
  rng = np.random.default_rng(0)
  normal = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  ints = jnp.zeros((B, L), jnp.int32)
  weights = rng.uniform(0.5, 2, (B, L)) * (rng.uniform(size=(B, L)) < 0.7)
  batch = types.Batch(
    tokens=ints,
    targets=jnp.asarray(rng.integers(0, V, (B, L)), jnp.int32),
    positions=ints,
    segment_ids=ints,
    parts=ints,
    weights=jnp.asarray(weights, jnp.float32),
    row_id=jnp.arange(B, dtype=jnp.int32),
  )
  if kind == 'dense':
    teacher = dense_distributions.DenseTeacher(
      normal(B, L, D_T), normal(V, D_T), jnp.ones(())
    )
    mixture = dense_distributions.DenseMixture((teacher,))
    return normal(B, L, D), normal(V, D), mixture, batch
  ids = np.argsort(rng.uniform(size=(B, L, V)))[..., :K]
  p = rng.dirichlet(np.ones(K + 1), (B, L))
  teacher = sparse_distributions.TopK(
    ids=jnp.asarray(ids, jnp.int32),
    logprobs=jnp.log(jnp.asarray(p[..., :K], jnp.float32)),
    tail_logprob=jnp.log(jnp.asarray(p[..., K], jnp.float32)),
  )
  return normal(B, L, D), normal(V, D), teacher, batch


def _place(mesh, hidden, unembedding, teacher, batch):
  """Shards arrays by rows, and embeddings by vocabulary."""
  rows = rules.batch_sharding(mesh)
  split = jax.sharding.PartitionSpec(('fsdp', 'tensor'))
  table = jax.sharding.NamedSharding(mesh, split)
  put = functools.partial(jax.tree.map, lambda x: jax.device_put(x, rows))
  if isinstance(teacher, dense_distributions.DenseMixture):
    teacher = dense_distributions.DenseMixture(
      tuple(
        dense_distributions.DenseTeacher(
          put(t.final_hidden),
          jax.device_put(t.unembedding, table),
          jax.device_put(t.weight, rules.replicated(mesh)),
        )
        for t in teacher.teachers
      )
    )
  else:
    teacher = put(teacher)
  return put(hidden), jax.device_put(unembedding, table), teacher, put(batch)


def _compiled(shape, kind, chunk_tokens):
  """Returns the compiled value and gradient, and its arguments."""
  count = int(np.prod(shape))
  mesh = mesh_lib.make(
    dict(zip(mesh_lib.AXES, shape, strict=False)), jax.devices()[:count]
  )
  objective = _objective(LOSSES, chunk_tokens)

  def loss(hidden, unembedding, teacher, batch):
    settings = objective.settings(batch, 0)
    targets = distributions.Targets(teacher, None)
    return objective.logits_total(hidden, unembedding, targets, batch, settings)

  gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  arguments = _place(mesh, *_arguments(kind))
  with rules.active(mesh):
    return jax.jit(gradient).lower(*arguments).compile(), arguments


@pytest.fixture(scope='module', params=['dense', 'top_k'])
def one_device(request):
  program, arguments = _compiled((1, 1, 1), request.param, 1000)
  return request.param, jax.device_get(program(*arguments))


@pytest.mark.parametrize('shape', [(2, 1, 1), (1, 4, 1), (2, 2, 2), (1, 8, 1)])
def test_meshes_change_nothing(shape, one_device):
  kind, expected = one_device
  program, arguments = _compiled(shape, kind, 32)
  got = jax.device_get(program(*arguments))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=3e-5, atol=2e-6)


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 8, 1)])
@pytest.mark.parametrize('kind', ['dense', 'top_k'])
def test_no_array_of_all_tokens_by_vocabulary_exists(shape, kind):
  chunk_tokens = 16
  program, _ = _compiled(shape, kind, chunk_tokens)
  devices = int(np.prod(shape))
  whole = B * L * V // devices
  largest = max(
    array.elements
    for array in hlo_arrays.largest(program.as_text())
    # Ignore hidden states and sparse ids, which have all tokens, too.
    if V // devices in array.shape or V in array.shape
  )
  table = V * D_T // devices
  chunk = max(chunk_tokens, B // devices) * V
  assert largest <= max(chunk, table) < whole / 4
