"""Compares updates with parameter groups with updates of all parameters."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from kd.config import base
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.optimizers import optimizer_cases
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.train import checkpointing
from kd.train import update
from kd.train import update_cases

# Layers 0 and 2 are stacked in one array, 1 and 3 in another. Only the
# embedding has 300 rows.
_VOCAB = 300
_SIZES = dataclasses.replace(
  optimizer_cases.SIZES, vocab_size=_VOCAB, layer_kinds=('local', 'global') * 2
)
_MODEL = families.build(_SIZES, 'float32', 'none', '')
_RATE = 0.01
_STEPS = 10
_group = base.parameter_group


@functools.cache
def _params():
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: (rng.normal(size=x.shape) / 4).astype(np.float32),
    _MODEL.abstract_params(),
  )
  # Numbers whose bits an addition of 0 changes.
  odd = np.float32([-0.0, 1e-40, -1e-40])
  params['pattern']['layer_0']['mlp']['gate'][0, 0, :3] = odd
  return params


def _build(groups, clip_norm=0.0, build_spec=base.adamw):
  """Returns the objective, the optimizer and the learning rate."""
  entries = {name: entry.to_dict() for name, entry in groups.items()}
  built = parameter_groups.ParameterGroups(
    _SIZES, parameter_groups.build(entries, 'optimizer.groups', _STEPS)
  )
  lr = base.schedule('constant', peak=_RATE, warmup_steps=0)
  spec = build_spec(lr, weight_decay=0.5, clip_norm=clip_norm).to_dict()
  context = terms_lib.Context(steps=_STEPS, student=None, teacher=None)
  terms = term_builder.build(
    {'ce': base.term('cross_entropy').to_dict()}, context
  )
  objective = objective_lib.Objective(terms, selection.everywhere(), 64)
  return objective, *optimizers.build(spec, _STEPS, built)


def _run(groups, steps=1, micro_batches=1, clip_norm=0.0):
  """Returns the first and last state, gradient norms, and the program."""
  objective, optimizer, rate = _build(groups, clip_norm)
  first = update.init_state(_params(), objective, optimizer, 0)
  step = jax.jit(update.make(_MODEL, objective, optimizer, rate, micro_batches))
  program = str(jax.make_jaxpr(step)(first, update_cases.batch(_VOCAB), None))
  state, norms = first, []
  for _ in range(steps):
    state, out = step(state, update_cases.batch(_VOCAB), None)
    norms.append(out.scalars['grad_norm'])
  return first, state, norms, program


@functools.cache
def _plain():
  return _run({})


def _by_path(pair):
  """Returns each layer's parameters by path."""
  layout, values = parameter_groups.ParameterGroups(_SIZES), {}
  for path, x in jax.tree_util.tree_leaves_with_path(pair):
    names = layout.names(path)
    each = np.asarray(x) if len(names) > 1 else [np.asarray(x)]
    values |= zip(names, each, strict=True)
  return values


def _changes(run):
  """Returns the change of each layer's parameters, by path."""
  first, last, *_ = run
  old, new = _by_path(first.all_params), _by_path(last.all_params)
  return {path: new[path] - old[path] for path in old}


def _tables(program):
  """Returns the operations with outputs of the embedding's shape."""
  return re.findall(rf':f32\[{_VOCAB},16\] = (\w+)', program)


def test_frozen_parameters_have_no_gradient_and_no_state():
  names = r'embedding|layers\.[02]'
  run = _run({'low': _group(names, frozen=True)}, micro_batches=2)
  plain, changes = _changes(_plain()), _changes(run)
  is_frozen = {p: bool(re.match(names + r'\.', p + '.')) for p in changes}
  for path, change in changes.items():
    expected = 0.0 if is_frozen[path] else plain[path]
    np.testing.assert_allclose(change, expected, atol=2e-7)
  sizes = {path: change.size for path, change in changes.items()}
  trained = sum(size for path, size in sizes.items() if not is_frozen[path])
  state = sum(x.size for x in jax.tree.leaves(run[1].opt_state))
  assert state == 2 * trained + 1
  assert _tables(_plain()[3])
  assert not _tables(run[3])


def test_rates_and_decays_follow_the_groups():
  groups = {
    'decays': _group(r'layers\.1\.mlp', weight_decay=4.0),
    'slow': _group(r'layers\.2', rate=0.25),
  }
  plain, grouped = _changes(_plain()), _changes(_run(groups))
  params = _by_path((_params(), {}))
  for path, change in plain.items():
    scale = 0.25 if path.startswith('layers.2.') else 1.0
    more = 4.0 - 0.5 if path.startswith('layers.1.mlp.') else 0.0
    expected = scale * (change - _RATE * more * params[path])
    np.testing.assert_allclose(grouped[path], expected, atol=3e-7, err_msg=path)


def test_frozen_layers_of_a_stack_keep_every_bit_and_have_no_norm():
  groups = {'first': _group(r'layers\.0', frozen=True)}
  first, last, norms, _ = _run(groups, steps=3, clip_norm=1e-3)
  old, new = _by_path(first.all_params), _by_path(last.all_params)
  for path in old:
    same = old[path].tobytes() == new[path].tobytes()
    assert same == path.startswith('layers.0.'), path
  # After one update the second moments are (1 - b2) x squared gradients.
  squares = _by_path(_plain()[1].opt_state.nu)
  rest = [x.sum() for p, x in squares.items() if not p.startswith('layers.0.')]
  np.testing.assert_allclose(norms[0], (np.sum(rest) / 0.01) ** 0.5, rtol=1e-4)


@pytest.mark.parametrize('build_spec', [base.adamw, base.muon])
def test_a_state_without_moments_of_frozen_parameters_is_restored(
  build_spec, tmp_path
):
  groups = {'low': _group(r'layers\.(0|2|\d\.mlp)|embedding', frozen=True)}
  objective, optimizer, _ = _build(groups, build_spec=build_spec)
  state = update.init_state(_params(), objective, optimizer, 0)
  saver = checkpointing.Saver(str(tmp_path), 1, print)
  saver.save(3, state, {}, checkpointing.ResumeInfo('rows', {}, True, {}), None)
  saver.wait(3)
  mesh = mesh_lib.make({'data': 1}, jax.devices()[:1])
  place = rules.replicated(mesh)
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), _params()
  )
  abstract = update.abstract_state(params, objective, optimizer, mesh)
  restored, _, _ = saver.restore(3, abstract, {}, 'rows')
  saver.close()
  expected = state.replace(step=jax.numpy.int32(3))
  jax.tree.map(np.testing.assert_array_equal, restored, expected)
  # The final norm; matrices and norms of the trained layers.
  moments = {base.adamw: 2 * (1 + 4 + 6), base.muon: 2 * (1 + 6) + 4}
  leaves = [x for x in jax.tree.leaves(restored.opt_state) if x.size > 3]
  assert len(leaves) == moments[build_spec]
