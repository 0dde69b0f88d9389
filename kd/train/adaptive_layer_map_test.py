"""Adaptive layer maps: a nonfinite batch changes no map."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.core import types
from kd.losses import distributions
from kd.losses import layer_objective
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.models import model_cases
from kd.run import model_sizes
from kd.train import adaptive_layer_map
from kd.train import update


def _batch():
  ids = np.arange(16, dtype=np.int32).reshape(2, 8)
  return types.Batch(
    tokens=ids,
    targets=ids,
    positions=np.tile(np.arange(8, dtype=np.int32), (2, 1)),
    segment_ids=np.ones_like(ids),
    parts=np.zeros_like(ids),
    weights=np.ones((2, 8), np.float32),
    row_id=np.arange(2, dtype=np.int32),
  )


def _params(model, seed):
  drawn = model_cases.random_params(model.abstract_params(), seed)
  return jax.tree.map(jnp.asarray, drawn)


def _objective(specs, sizes):
  shape = model_sizes.term_sizes(sizes)
  context = terms_lib.Context(steps=10, student=shape, teacher=shape)
  return objective_lib.Objective(
    term_builder.build({k: x.to_dict() for k, x in specs.items()}, context),
    selection.everywhere(),
    chunk_tokens=64,
  )


def test_loading_only_mapped_layers_gives_equal_loss_and_gradient():
  """Terms have adaptive maps of states and of attention, and fixed maps."""
  sizes = families.variant('nano', 'variant')
  model = families.build(sizes, 'float32', 'none', 'student')
  adaptive = dict(map='adaptive', remap_every=2)
  objective = _objective(
    {
      'fixed': base.term('hidden_states', pairs=1),
      'own': base.term('hidden_states', pairs=2, **adaptive),
      'maps': base.term('attention_maps', pairs=1),
      'alike': base.term(
        'hidden_states', pairs=1, similarity='attention', **adaptive
      ),
    },
    sizes,
  )
  params, teacher = (_params(model, seed) for seed in (0, 1))
  batch, terms = _batch(), objective.layer_terms
  forward = jax.jit(model.forward, static_argnums=2)
  _, shown = forward(params, batch, objective.student_taps)
  _, whole = forward(teacher, batch, objective.teacher_taps)
  projections, _ = layer_objective.init(terms, jax.random.key(2))
  last = sizes.num_layers - 1
  maps = {'own': jnp.asarray([0, last]), 'alike': jnp.asarray([last - 1])}
  chosen = jax.jit(lambda x, m: layer_objective.mapped(terms, x, m))(
    whole, maps
  )
  assert chosen.hidden.shape[0] == 4 and whole.hidden.shape[0] == last + 1
  assert chosen.query.shape[0] == 1 and whole.query.shape[0] == last + 1

  def loss(student, taps, is_mapped):
    value, sums, _, _ = layer_objective.total(
      *(terms, projections, student, taps, batch),
      *(objective.settings(batch, 0), maps, jax.random.key(3), is_mapped),
    )
    return value, sums

  both = jax.value_and_grad(loss, has_aux=True)
  for got, like in zip(
    jax.tree.leaves(both(shown, chosen, True)),
    jax.tree.leaves(both(shown, whole, False)),
    strict=True,
  ):
    np.testing.assert_array_equal(got, like)


def test_a_nonfinite_student_keeps_its_map():
  sizes = families.variant('nano', 'variant')
  model = families.build(sizes, 'float32', 'none', 'student')
  params = _params(model, 0)
  spec = base.term('hidden_states', map='adaptive', pairs=2, remap_every=1)
  objective, batch = _objective({'hidden': spec}, sizes), _batch()
  forward = jax.jit(model.forward, static_argnums=2)
  _, shown = forward(params, batch, objective.teacher_taps)
  targets = distributions.Targets(None, shown)

  def state(params):
    return update.TrainState(
      step=jnp.int32(0),
      params=params,
      opt_state=(),
      rng=jax.random.key(0),
      projections={},
      layer_maps={'hidden': jnp.asarray([0, 0], jnp.int32)},
    )

  measure = adaptive_layer_map.AdaptiveLayerMap(model, objective)
  # If teacher and student are equal, each layer is nearest to itself.
  good, kept = measure(0, state(params), batch, targets)
  assert kept.mapped and kept.taps.hidden.shape[0] == 2
  np.testing.assert_array_equal(
    kept.taps.hidden, shown.hidden[good.layer_maps['hidden']]
  )
  assert np.asarray(good.layer_maps['hidden']).any()
  spoiled = params | {'embedding': params['embedding'].at[3].set(jnp.nan)}
  bad, _ = measure(0, state(spoiled), batch, targets)
  np.testing.assert_array_equal(bad.layer_maps['hidden'], [0, 0])
