"""Tests that decoding exchanges activations between devices, never weights."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.configs import gemma3_tpu
from kd.models import decoding
from kd.models import families
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning import planned_run
from kd.planning import programs
from kd.planning.hlo import hlo_text
from kd.run import resolve
from kd.run import saved_params
from kd.sampling import device

_ROWS, _PROMPT = 8, 16
_EXCHANGES = (
  *('all-gather', 'all-reduce', 'all-to-all', 'reduce-scatter'),
  'collective-permute',
)
_MESHES = [
  {'fsdp': 8},
  {'data': 2, 'fsdp': 2, 'tensor': 2},
  {'fsdp': 2, 'tensor': 2, 'sequence': 2},
]


# A model with a separate output embedding.
_UNTIED = dataclasses.replace(
  families.variant('qwen3_tiny', 'variant'), tied=False
)
_STAGES = {'fsdp': 2, 'tensor': 2, 'pipeline': 2}
_CASES = [*((mesh, None) for mesh in _MESHES), (_STAGES, _UNTIED)]


def _run(mesh, sizes=None, **changes):
  config = gemma3_tpu.get_config()
  config.update_from_flattened_dict(
    {
      'teacher.variant': 'tiny',
      'student.variant': 'tiny',
      'data.length': 64,
      'data.batch_size': 8,
      'evaluation.batch_size': _ROWS,
      'evaluation.max_new_tokens': 8,
      'plan.prompt_length': _PROMPT,
    }
    | {f'mesh.{axis}': size for axis, size in mesh.items()}
    | changes
  )
  devices = np.asarray(jax.devices())
  if sizes is None:
    return planned_run.on_devices(config, devices)
  make = lambda sizes, part: mesh_lib.make(sizes, devices[part])
  return resolve.shapes(config, make, lambda *_: sizes)


def _exchanges(text):
  return [
    i
    for computation in hlo_text.parse(text).computations.values()
    for i in computation.instructions
    if i.op.removesuffix('-start') in _EXCHANGES
  ]


@pytest.mark.parametrize('mesh, sizes', _CASES)
def test_decoding_gathers_no_weights(mesh, sizes):
  run = _run(mesh, sizes)
  program = programs.decode(run)
  with rules.active(run.mesh):
    text = program.function.lower(*program.arguments).compile().as_text()
  loop = f'jit({device.steps.__name__})/while/body'
  exchanged = {True: 0, False: 0}  # By whether it is in a decoding step.
  for i in _exchanges(text):
    is_step = loop in i.attributes
    size = max(array.elements for array in i.arrays)
    exchanged[is_step] = max(exchanged[is_step], size)
  model = run.student.config
  # A decoding step exchanges activations of one token per row.
  assert 0 < exchanged[True] <= _ROWS * model.mlp_dim
  assert exchanged[True] < model.embed_dim * model.head_dim  # A key's weights.
  # Reading the prompts gathers one matrix at a time.
  layer = model.embed_dim * model.mlp_dim
  assert exchanged[False] <= max(layer, _ROWS * _PROMPT * model.embed_dim)


@pytest.mark.parametrize(
  'mesh, sizes, scheme',
  [*((*case, 'none') for case in _CASES), (_MESHES[1], None, 'int4')],
)
def test_decoding_weights_are_split_as_planned(mesh, sizes, scheme):
  few_bits = {f'student.quantize.{x}': scheme for x in ('weights', 'tables')}
  run = _run(mesh, sizes, **few_bits)
  params = saved_params.abstract(run.student)
  planned = jax.tree.leaves(programs.decode(run).arguments[1])
  every = (None,) * len(planned)  # Including those that would not be copied.
  with rules.active(run.mesh):
    compiled = device.changed_weights.lower(
      run.student.module, every, params
    ).compile()
  actual = compiled.output_shardings
  for array, sharding in zip(planned, actual, strict=True):
    assert array.sharding.is_equivalent_to(sharding, len(array.shape))


@pytest.mark.parametrize('mesh', _MESHES)
def test_prompts_reach_their_rows_without_being_gathered(mesh):
  run = _run(mesh)
  config = run.student.config
  heads = config.num_kv_heads, config.head_dim
  random = np.random.default_rng(0)
  rows, prompts = (
    random.normal(size=(_ROWS, slots, *heads)).astype(np.float32)
    for slots in (_PROMPT + 4, _PROMPT)
  )
  take, source = np.arange(_ROWS) != 2, random.permutation(_ROWS)
  place = rules.batch_sharding(run.mesh)
  cache, new = jax.device_put((((rows, rows),), ((prompts, prompts),)), place)
  with rules.active(run.mesh):
    insert = jax.jit(decoding.insert).lower(cache, new, take, source).compile()
  expected = rows.copy()
  expected[take, :_PROMPT] = prompts[source][take]
  ((key, value),) = insert(cache, new, take, source)
  np.testing.assert_array_equal(key, expected)
  np.testing.assert_array_equal(value, expected)
  exchanged = _exchanges(insert.as_text())
  share = prompts.size // rules.row_shards(run.mesh)
  assert exchanged
  assert all(a.elements <= share for i in exchanged for a in i.arrays)
