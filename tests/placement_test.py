"""Tests the sharding rules of parameters without devices."""

import jax
import pytest

from kd.core import errors
from kd.models import families
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules


def _shardings(variant, **shape):
  sizes = families.variant(variant, '')
  model = families.build(sizes, 'float32', 'none', 'student')
  mesh = jax.sharding.AbstractMesh(
    tuple(shape.get(axis, 1) for axis in mesh_lib.AXES), mesh_lib.AXES
  )
  return rules.param_shardings(
    mesh,
    model.logical_axes(),
    model.abstract_params(),
    'student',
  )


def test_placement_of_1b_on_fsdp_tensor_and_sequence():
  placed = _shardings('1b', fsdp=2, sequence=2, tensor=4)
  attention = placed['pattern']['layer_5']['attention']
  spec = jax.sharding.PartitionSpec
  whole = ('fsdp', 'sequence')
  table = spec(('fsdp', 'tensor', 'sequence'), None)
  assert placed['embedding'].spec == table
  assert attention['query'].spec == spec('pipeline', whole, 'tensor', None)
  # The only key head is replicated over four tensor devices.
  assert attention['key'].spec == spec('pipeline', whole, None, None)
  mlp = placed['pattern']['layer_0']['mlp']
  assert mlp['down'].spec == spec('pipeline', 'tensor', whole)


def test_periods_of_layers_are_divided_among_stages():
  def first(stages):
    placed = _shardings('1b', pipeline=stages, fsdp=2)
    return placed['pattern']['layer_0']['mlp']['up'].spec[0]

  # There are 4 periods. With 3 stages, which only occur while loading, each
  # stage has all parameters.
  assert first(2) == first(4) == 'pipeline' and first(3) is None


@pytest.mark.parametrize(
  'shape,words',
  [
    (dict(tensor=8), ('mesh.tensor', '8 devices', '4 heads', 'student')),
    (dict(fsdp=7), ('mesh.fsdp', '7 devices', '1152 embed')),
  ],
)
def test_undivided_axes_are_named(shape, words):
  with pytest.raises(errors.ConfigError) as e:
    _shardings('1b', **shape)
  assert all(word in str(e.value) for word in words), str(e.value)
