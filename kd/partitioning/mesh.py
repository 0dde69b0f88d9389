"""Builds the device mesh of a config."""

from collections.abc import Mapping, Sequence
import math

import jax
from jax.experimental import mesh_utils
import numpy as np

from kd.core import errors

AXES = ('data', 'fsdp', 'tensor', 'sequence', 'pipeline')
# Axes that may span slices, the one with the least communication first.
_ACROSS = ('pipeline', 'data')


def resolve(sizes: Mapping[str, int], device_count: int) -> dict[str, int]:
  """Replaces the axis size -1 by the number of remaining devices.

  Args:
    sizes: number of devices by axis of AXES. At most one is -1. Missing axes
      are 1.
    device_count: total number of devices.

  Returns:
    The size of every axis, with the product device_count.

  Raises:
    ConfigError: the sizes do not multiply to device_count.
  """
  sizes = dict.fromkeys(AXES, 1) | dict(sizes)
  for axis in AXES:
    if sizes[axis] == 0 or sizes[axis] < -1:
      raise errors.ConfigError(
        f'mesh.{axis}', f'found {sizes[axis]}', legal='1, 2, ... or -1'
      )
  free = [axis for axis in AXES if sizes[axis] == -1]
  if len(free) > 1:
    raise errors.ConfigError(
      f'mesh.{free[1]}',
      f'found -1, but mesh.{free[0]} is -1 too',
      legal='-1 for one axis only',
    )
  resolved = {axis: sizes[axis] for axis in AXES}
  taken = math.prod(s for s in resolved.values() if s != -1)
  if free and device_count % taken == 0:
    resolved[free[0]] = device_count // taken
    taken = device_count
  if taken != device_count:
    shape = ' x '.join(f'{axis} {sizes[axis]}' for axis in AXES)
    raise errors.ConfigError(
      'mesh',
      f'{shape} does not match {device_count} devices',
      legal=f'sizes whose product is {device_count}, one of them may be -1',
    )
  return resolved


def make(
  sizes: Mapping[str, int], devices: Sequence[jax.Device]
) -> jax.sharding.Mesh:
  """Builds the mesh of the given devices.

  The pipeline is the outermost axis: its stages are consecutive parts of the
  device list. TPU slices are connected by the data-center network, which is far
  slower than the links within a slice. Only the pipeline and data axes span
  slices.

  Args:
    sizes: see `resolve`.
    devices: the devices; their number is the product of the sizes.

  Raises:
    ConfigError: see `resolve`; or the slices do not divide pipeline x data.
  """
  shape = resolve(sizes, len(devices))
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  order = ('pipeline', *(axis for axis in AXES if axis != 'pipeline'))
  # Auto axes: linen's logical constraints fail under Explicit ones.
  axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
  sizes = tuple(shape[axis] for axis in order)
  if slices == 1 and not _fill_a_box(devices):
    # jax.make_mesh rejects them. Each process's devices stay together.
    in_order = np.asarray(devices).reshape(sizes)
  elif slices == 1:
    in_order = jax.make_mesh(
      sizes,
      order,
      axis_types=axis_types,
      devices=np.asarray(devices),
    ).devices
  else:
    across = _across_slices(shape, slices)
    in_order = mesh_utils.create_hybrid_device_mesh(
      tuple(shape[axis] // across[axis] for axis in order),
      tuple(across[axis] for axis in order),
      devices,
      # As in jax.make_mesh for one slice.
      allow_split_physical_axes=devices[0].device_kind.startswith(
        'TPU v5 lite'
      ),
    )
  return jax.sharding.Mesh(
    np.moveaxis(in_order, 0, AXES.index('pipeline')),
    AXES,
    axis_types=axis_types,
  )


def _across_slices(shape, slices):
  """Returns the number of parts into which the slices split each axis."""
  across, left = dict.fromkeys(AXES, 1), slices
  for axis in _ACROSS:
    across[axis] = math.gcd(shape[axis], left)
    left //= across[axis]
  if left > 1:
    raise errors.ConfigError(
      'mesh.data',
      f'found {shape["data"]}, but the devices are in {slices} slices',
      legal=f'a multiple of {slices // across["pipeline"]}: only the pipeline '
      f'({shape["pipeline"]}) and data axes span slices',
    )
  return across


def _fill_a_box(devices):
  """Returns whether the chips of a TPU slice form a box without gaps."""
  places = [getattr(device, 'coords', None) for device in devices]
  if None in places:
    return True  # Not TPUs.
  spans = (max(axis) - min(axis) + 1 for axis in zip(*places, strict=True))
  return math.prod(spans) == len(set(map(tuple, places)))


def platform(
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
) -> tuple[str, float]:
  """Returns the platform, and the compute capability of GPUs (otherwise 0).

  An AbstractMesh must have an abstract device that is not a GPU.
  """
  name = mesh.abstract_mesh.abstract_device.platform
  if name != 'gpu':
    return name, 0.0
  return name, float(mesh.devices.flat[0].compute_capability)
