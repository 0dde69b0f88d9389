"""Tests the sizes of meshes."""

import pytest

from kd.core import errors
from kd.partitioning import mesh as mesh_lib


@pytest.mark.parametrize(
  'sizes,count,expected',
  [
    ((1, -1, 1), 8, (1, 8, 1, 1, 1)),
    ((2, -1, 2), 8, (2, 2, 2, 1, 1)),
    ((1, 1, 1), 1, (1, 1, 1, 1, 1)),
    ((-1, 4, 1), 4, (1, 4, 1, 1, 1)),
    ((1, 2, 1, -1), 8, (1, 2, 1, 4, 1)),
    ((1, -1, 1, 1, 2), 8, (1, 4, 1, 1, 2)),
  ],
)
def test_the_free_axis_has_the_remaining_devices(sizes, count, expected):
  """Missing axes are 1."""
  named = dict(zip(mesh_lib.AXES, sizes, strict=False))
  resolved = mesh_lib.resolve(named, count)
  assert tuple(resolved[a] for a in mesh_lib.AXES) == expected


@pytest.mark.parametrize(
  'sizes,count,words',
  [
    ((1, 3, 1), 8, ('mesh', '8 devices')),
    ((3, -1, 1), 8, ('mesh', '8 devices')),
    ((-1, -1, 1), 8, ('mesh.fsdp', 'mesh.data')),
    ((1, 0, 1), 8, ('mesh.fsdp', 'found 0')),
    ((1, -2, 1), 8, ('mesh.fsdp', 'found -2')),
  ],
)
def test_impossible_meshes_are_named(sizes, count, words):
  with pytest.raises(errors.ConfigError) as e:
    mesh_lib.resolve(dict(zip(mesh_lib.AXES, sizes)), count)
  assert all(word in str(e.value) for word in words), str(e.value)
