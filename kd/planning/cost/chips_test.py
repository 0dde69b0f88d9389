"""Tests slice names and the plausibility of the chip figures."""

import math

import pytest

from kd.core import errors
from kd.planning.cost import chips


@pytest.mark.parametrize(
  'name,count',
  [('v5e:4x4', 16), ('v5e:8x8', 64), ('v5p:2x2x2', 8), ('v4:2x2x1', 4)],
)
def test_slices_have_the_number_of_chips_of_their_shape(name, count):
  assert chips.parse(name).count == count


@pytest.mark.parametrize(
  'name,meant',
  [
    ('v5e:4x3', 'v5e:4x4'),
    ('v5litepod-12', 'v5litepod-16'),
    ('v5p-15', 'v5p-16'),
    ('v5lite-8', 'v5litepod-8'),
    ('v6f:4x4', 'v6e:4x4'),
    ('v5p:2x2', 'v5p:2x2x1'),
  ],
)
def test_wrong_names_are_refused_with_a_suggestion(name, meant):
  with pytest.raises(errors.ConfigError) as e:
    chips.parse(name)
  assert 'plan.topology' in str(e.value) and f'{meant!r}' in str(e.value)


# Cloud's documentation of each generation, "Configurations": accelerator type
# and topology. v4 and v5p count two TensorCores per chip.
@pytest.mark.parametrize(
  'accelerator_type,topology',
  [
    ('v4-8', 'v4:2x2x1'),
    ('v4-128', 'v4:4x4x4'),
    ('v5litepod-1', 'v5e:1x1'),
    ('v5litepod-8', 'v5e:2x4'),
    ('v5litepod-256', 'v5e:16x16'),
    ('v5e-16', 'v5e:4x4'),
    ('v5p-8', 'v5p:2x2x1'),
    ('v5p-16', 'v5p:2x2x2'),
    ('v6e-8', 'v6e:2x4'),
    ('v6e-64', 'v6e:8x8'),
  ],
)
def test_accelerator_types_are_translated(accelerator_type, topology):
  assert chips.parse(accelerator_type) == chips.parse(topology)
  if not accelerator_type.startswith('v5e'):
    assert chips.parse(topology).accelerator_type == accelerator_type


def test_no_slice_is_refused():
  with pytest.raises(errors.ConfigError, match='not given.*v5e:4x4'):
    chips.parse('')


def test_specifications_are_consistent():
  for name, chip in chips.CHIPS.items():
    # Operations for each byte: all generations were built for about the same.
    assert 100 < chip.flops / chip.hbm_bandwidth < 700, name
    assert 2 < chip.hbm_bandwidth / chip.ici_bandwidth < 6, name
    assert 15 <= chip.hbm_bytes / 2**30 <= 96, name
    axes = {len(shape.split('x')) for shape in chip.shapes}
    assert axes == ({3} if chip.cores_named == 2 else {2}), name
    counts = [chips.parse(f'{name}:{s}').count for s in chip.shapes]
    assert counts == sorted(counts) and math.log2(counts[-1]).is_integer()


def test_devices_are_recognized_by_their_jax_name():
  assert chips.of_devices('TPU v5 lite', 8) == chips.parse('v5e:2x4')
  assert chips.of_devices('TPU v6 lite', 3) == chips.Slice('', 'v6e', 3)
  assert chips.of_devices('cpu', 1) is None
