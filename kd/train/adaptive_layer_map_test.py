"""Adaptive layer maps: a batch that is not finite changes no map."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.core import types
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.run import model_sizes
from kd.train import adaptive_layer_map
from kd.train import update


def test_a_student_that_is_not_finite_keeps_its_map():
  sizes = families.variant('nano', 'variant')
  model = families.build(sizes, 'float32', 'none', 'student')
  params = jax.jit(model.init_params)(jax.random.key(0))
  spec = base.term('hidden_states', map='adaptive', pairs=2, remap_every=1)
  shape = model_sizes.term_sizes(sizes)
  context = terms_lib.Context(steps=10, student=shape, teacher=shape)
  objective = objective_lib.Objective(
    term_builder.build({'hidden': spec.to_dict()}, context),
    selection.everywhere(),
    chunk_tokens=64,
  )
  ids = np.arange(16, dtype=np.int32).reshape(2, 8)
  batch = types.Batch(
    tokens=ids,
    targets=ids,
    positions=np.tile(np.arange(8, dtype=np.int32), (2, 1)),
    segment_ids=np.ones_like(ids),
    parts=np.zeros_like(ids),
    weights=np.ones((2, 8), np.float32),
    row_id=np.arange(2, dtype=np.int32),
  )
  _, shown = model.forward(params, batch, objective.teacher_taps)
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
  # Compared with itself, each layer is nearest to itself.
  good = measure(0, state(params), batch, targets)
  assert np.asarray(good.layer_maps['hidden']).any()
  spoiled = params | {'embedding': params['embedding'].at[3].set(jnp.nan)}
  bad = measure(0, state(spoiled), batch, targets)
  np.testing.assert_array_equal(bad.layer_maps['hidden'], [0, 0])
