"""Updates are the same on one and eight devices, and with micro-batches."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from kd.config import base
from kd.core import types
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.models.qwen3 import config as qwen3_config
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import placement
from kd.partitioning import rules
from kd.quantization import running_ranges
from kd.run import model_sizes
from kd.teachers import live
from kd.train import update

# One term of each kind, so that meshes are tested for all of them.
LOSSES = {
  'ce': base.term('cross_entropy', weight=0.4, part='answer').to_dict(),
  'hidden': base.term('hidden_states', weight=0.1, pairs=2).to_dict(),
  'kl': base.term('forward_kl', weight=0.6, temperature=1.5).to_dict(),
  'relations': base.term(
    'attention_relations', weight=0.2, relation_heads=4, block=16
  ).to_dict(),
}


# Small, for quick compilation for eight devices, with two kinds of layers.
SIZES = gemma3_config.Gemma3Config(
  embed_dim=32,
  mlp_dim=64,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  vocab_size=264,
  layer_kinds=(gemma3_config.LOCAL, gemma3_config.GLOBAL) * 2,
  window=4,
  context=64,
  query_scale=8.0,
  local_rope_base=1e4,
  global_rope_base=1e6,
  global_rope_factor=1.0,
  norm_epsilon=1e-6,
)
# Its unembedding is a separate parameter.
QWEN3 = qwen3_config.Qwen3Config(
  embed_dim=32,
  mlp_dim=64,
  num_heads=4,
  num_kv_heads=2,
  head_dim=16,
  vocab_size=264,
  num_layers=4,
  context=64,
  rope_base=1e6,
  norm_epsilon=1e-6,
  tied=False,
)


def _batch(batch=8, length=24, vocab=260):
  """Returns packed rows: two segments of random lengths, then padding."""
  rng = np.random.default_rng(0)
  segments = np.zeros((batch, length), np.int32)
  positions = np.zeros((batch, length), np.int32)
  weights = np.zeros((batch, length), np.float32)
  for row in range(batch):
    first, second = rng.integers(2, 10, 2)
    segments[row, :first], segments[row, first : first + second] = 1, 2
    positions[row, :first] = np.arange(first)
    positions[row, first : first + second] = np.arange(second)
    weights[row, first - 1] = 1
    weights[row, first : first + second] = rng.uniform(0.1, 3, second)
  tokens = rng.integers(4, vocab, (2, batch, length)).astype(np.int32)
  return types.Batch(
    tokens=tokens[0] * (segments > 0),
    targets=tokens[1],
    positions=positions,
    segment_ids=segments,
    parts=rng.integers(0, 2, (batch, length)).astype(np.int32),
    weights=weights,
    row_id=np.arange(batch, dtype=np.int32),
  )


@functools.cache
def _init(model, seed):
  return jax.device_get(jax.jit(model.init_params)(jax.random.key(seed)))


def _objective(model_config, losses):
  sizes = model_sizes.term_sizes(model_config)
  context = terms_lib.Context(steps=10, student=sizes, teacher=sizes)
  # Half of the positions, by entropy; the choice must not depend on the mesh.
  terms = {name: LOSSES[name] for name in losses}
  kept = selection.build({'rule': 'student_entropy', 'fraction': 0.5}, '', 10)
  return objective_lib.Objective(term_builder.build(terms, context), kept, 32)


@functools.cache
def _programs(shape, count, micro_batches, sizes, muon, ranges, losses):
  """Returns the first state, shardings, mesh, update, and teacher targets."""
  devices = jax.devices()[:count]
  model = families.build(sizes, 'float32', 'none', 'student')
  if ranges:
    model = running_ranges.wrapped(model, 'int8')
  mesh = mesh_lib.make(dict(zip(mesh_lib.AXES, shape, strict=False)), devices)
  shardings = rules.param_shardings(
    mesh,
    model.logical_axes(),
    model.abstract_params(),
    'student',
  )
  params = jax.device_put(_init(model, 0), shardings)
  teacher = jax.device_put(_init(model, 1), shardings)
  objective = _objective(sizes, losses)
  targets = live.make(
    [live.Teacher(model, teacher, 1.0)],
    sizes.vocab_size,
    objective.teacher_taps,
    mesh,
  )
  lr = base.schedule('constant', peak=1e-3, warmup_steps=0)
  # With a small epsilon, the first updates are sign(gradient), and rounding
  # decides the sign of gradients close to zero.
  spec, groups, more = base.adamw(lr, epsilon=1e-3), {}, (0.0, 0.0)
  if muon:
    spec = base.muon(lr, epsilon=1e-3)
    groups = {
      'a': base.parameter_group('embedding', frozen=True).to_dict(),
      'b': base.parameter_group(r'layers\.0', frozen=True).to_dict(),
      'c': base.parameter_group(r'layers\.1', rate=0.5).to_dict(),
    }
    more = 0.5, 0.3
  ema_decay, layer_dropout = more
  split = parameter_groups.ParameterGroups(
    sizes,
    parameter_groups.build(groups, 'optimizer.groups', 10),
    0.5,
    model.is_frozen,
  )
  optimizer, rate = optimizers.build(spec.to_dict(), 10, split, ema_decay)
  step = update.jit(
    update.make(
      model, objective, optimizer, rate, micro_batches, layer_dropout, 0.5
    ),
    mesh,
  )
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    params,
  )
  abstract = update.abstract_state(abstract, objective, optimizer, mesh)
  state = update.init_state(params, objective, optimizer, 0)
  # The update's output shardings, so that one program runs all three updates.
  places = jax.tree.map(lambda x: x.sharding, abstract)
  return jax.device_get(state), places, mesh, step, targets


def _three_updates(
  shape,
  count,
  micro_batches=1,
  batch=None,
  sizes=SIZES,
  muon=False,
  ranges=False,
  losses=tuple(LOSSES),
):
  """Returns losses, gradient norms, and parameters after three updates."""
  first, places, mesh, step, targets = _programs(
    shape, count, micro_batches, sizes, muon, ranges, losses
  )
  state = jax.device_put(first, places)
  rows = placement.place(_batch() if batch is None else batch, mesh, 8)
  seen = []
  for _ in range(3):
    with rules.active(mesh):
      state, out = step(state, rows, targets(rows))
    seen += [out.sums[key] for key in losses] + [out.scalars['grad_norm']]
  params = (state.params, state.ema) if muon else state.params
  return np.array(seen), jax.device_get(params)


@pytest.fixture(scope='module')
def one_device():
  return _three_updates((1, 1, 1), 1)


def _assert_same(got, expected):
  np.testing.assert_allclose(got[0], expected[0], rtol=2e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
    got[1],
    expected[1],
  )


@pytest.mark.parametrize('shape', [(2, 2, 2), (1, 2, 1, 4), (1, 2, 2, 1, 2)])
def test_meshes_change_nothing(shape, one_device):
  _assert_same(_three_updates(shape, 8), one_device)


def test_meshes_change_nothing_for_an_untied_head():
  changes = {'sizes': QWEN3, 'losses': ('ce', 'kl')}
  one = _three_updates((1, 1, 1), 1, **changes)
  _assert_same(_three_updates((2, 2, 2), 8, **changes), one)
  assert np.any(one[1]['head'] != one[1]['embedding'])


def test_meshes_change_nothing_for_groups_muon_averages_and_layer_dropout():
  # One array of two layers.
  sizes = dataclasses.replace(SIZES, layer_kinds=(gemma3_config.LOCAL,) * 2)
  changes = {'sizes': sizes, 'muon': True, 'losses': ('ce',)}
  one = _three_updates((1, 1, 1), 1, **changes)
  _assert_same(_three_updates((1, 2, 2, 1, 2), 8, **changes), one)
  first = _init(families.build(sizes, 'float32', 'none', ''), 0)
  params, average = one[1]
  gate = lambda tree: tree['pattern']['layer_0']['mlp']['gate']
  np.testing.assert_array_equal(gate(params)[0], gate(first)[0])
  assert np.abs(gate(params) - gate(average))[1].max() > 1e-5


def test_meshes_and_micro_batches_change_no_running_range():
  # One array of two layers.
  sizes = dataclasses.replace(SIZES, layer_kinds=(gemma3_config.LOCAL,) * 2)

  def ranges_on(*arguments):
    _, params = _three_updates(
      *arguments, sizes=sizes, ranges=True, losses=('ce',)
    )
    return jax.tree.leaves(running_ranges.split(params)[0])

  one = ranges_on((1, 1, 1), 1)
  # Another order of summation may round a value to the next code.
  np.testing.assert_allclose(ranges_on((1, 2, 2, 2), 8, 2), one, rtol=2e-3)


def test_micro_batches_over_devices(one_device):
  _assert_same(_three_updates((2, 2, 1), 4, 2), one_device)


def test_more_padding_changes_nothing(one_device):
  batch = _batch()
  padded = jax.tree.map(
    lambda x: x if x.ndim == 1 else np.pad(x, ((0, 0), (0, 17))), batch
  )
  got = _three_updates((1, 1, 1), 1, batch=padded)
  _assert_same(got, one_device)


def test_no_target_changes_no_parameter():
  batch = _batch()
  batch = batch.replace(weights=np.zeros_like(batch.weights))
  seen, params = _three_updates((1, 1, 1), 1, batch=batch)
  assert not seen.any()
  norm = params['final_norm']['scale']
  np.testing.assert_array_equal(norm, np.zeros_like(norm))


def test_nonfinite_losses_change_no_parameter():
  batch = _batch()
  weights = batch.weights.copy()
  weights[0, np.argmax(weights[0] > 0)] = np.inf
  model = families.build(SIZES, 'float32', 'none', '')
  before = _init(model, 0)
  _, params = _three_updates((1, 1, 1), 1, batch=batch.replace(weights=weights))
  jax.tree.map(np.testing.assert_array_equal, params, before)
