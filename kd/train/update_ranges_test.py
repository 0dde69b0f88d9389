"""Compares running ranges over updates with their formula in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from kd.config import base
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.models import layer_measures
from kd.models import layers
from kd.optimizers import optimizer_cases
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.quantization import running_ranges
from kd.train import checkpointing
from kd.train import update
from kd.train import update_cases

_VOCAB, _DECAY = 64, 0.8
_SIZES = dataclasses.replace(
  optimizer_cases.SIZES, vocab_size=_VOCAB, layer_kinds=('global',) * 2
)
_MODEL = running_ranges.wrapped(
  families.build(_SIZES, 'float32', 'none', ''), 'int8'
)


@functools.cache
def _built():
  """Returns the objective, the optimizer and the program of an update."""
  groups = parameter_groups.ParameterGroups(_SIZES, is_frozen=_MODEL.is_frozen)
  lr = base.schedule('constant', peak=0.1, warmup_steps=0)
  spec = base.adamw(lr, weight_decay=0.5).to_dict()
  context = terms_lib.Context(steps=9, student=None, teacher=None)
  terms = term_builder.build(
    {'ce': base.term('cross_entropy').to_dict()}, context
  )
  objective = objective_lib.Objective(terms, selection.everywhere(), 64)
  optimizer, rate = optimizers.build(spec, 9, groups, ema_decay=0.9)
  step = update.make(_MODEL, objective, optimizer, rate, 2, range_decay=_DECAY)
  return objective, optimizer, jax.jit(step)


@functools.cache
def _first():
  params = jax.jit(_MODEL.init_params)(jax.random.key(0))
  objective, optimizer, _ = _built()
  return update.init_state(params, objective, optimizer, 0)


def _ranges(params):
  """Returns the ranges of each layer's products, [S, 4]."""
  layer = params['pattern']['layer_0']
  each = [layer[name][layers.INPUT_RANGES] for name in ('attention', 'mlp')]
  return np.concatenate(each, axis=1)


@jax.jit
def _largest(params):
  """Returns the largest inputs of the first three products, [S, 3]."""
  most = lambda x: jnp.max(jnp.abs(x))
  measures = layer_measures.Measures(
    layer=lambda x, y: {},
    attention_input=lambda x: {'0': most(x)},
    heads=lambda q, k, mask, out: {'1': most(out)},
    mlp=lambda x, hidden, weights: {'2': most(x)},
  )
  batch = update_cases.batch(_VOCAB)
  measured = layer_measures.of(
    _MODEL.core, params, batch, batch.weights, measures
  )
  return jnp.stack([measured[str(i)] for i in range(3)], axis=1)


def test_ranges_are_averages_over_updates(tmp_path):
  _, _, step = _built()
  state, expected = _first(), None
  np.testing.assert_array_equal(_ranges(state.params), 0)
  for _ in range(4):
    # Inputs are rounded with the earlier ranges.
    seen = np.asarray(_largest(state.params), np.float64)
    state, _ = step(state, update_cases.batch(_VOCAB), None)
    if expected is None:
      expected = seen
    expected = _DECAY * expected + (1 - _DECAY) * seen
    np.testing.assert_allclose(
      _ranges(state.params)[:, :3], expected, rtol=1e-4
    )
  assert np.all(_ranges(state.params) > 0)
  assert np.any(np.abs(seen / expected - 1) > 0.02)
  # Neither the optimizer's state nor the average of parameters contains them.
  for tree in (state.opt_state, state.ema):
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert layers.INPUT_RANGES not in str(paths)
  np.testing.assert_array_equal(
    _ranges(state.averaged_params), _ranges(state.params)
  )
  _check_resumed(state, str(tmp_path))


def _check_resumed(state, folder):
  objective, optimizer, step = _built()
  saver = checkpointing.Saver(folder, 1, print)
  saver.save(4, state, {}, checkpointing.ResumeInfo('rows', {}, True, {}), None)
  saver.wait(4)
  mesh = mesh_lib.make({'data': 1}, jax.devices()[:1])
  place = rules.replicated(mesh)
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    state.params,
  )
  abstract = update.abstract_state(params, objective, optimizer, mesh)
  restored, _, _ = saver.restore(4, abstract, {}, 'rows')
  saver.close()
  after = [
    step(x, update_cases.batch(_VOCAB), None)[0].params
    for x in (state, restored)
  ]
  jax.tree.map(np.testing.assert_array_equal, *after)


def test_nonfinite_updates_change_no_range():
  _, _, step = _built()
  state, _ = step(_first(), update_cases.batch(_VOCAB), None)
  batch = update_cases.batch(_VOCAB)
  batch.weights[0, 0] = np.inf
  after, out = step(state, batch, None)
  assert not out.finite
  np.testing.assert_array_equal(_ranges(after.params), _ranges(state.params))
