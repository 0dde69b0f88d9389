"""Builds the device mesh of a config."""

from collections.abc import Mapping, Sequence
import math

import jax
from jax.experimental import mesh_utils
import numpy as np

from kd.core import errors

AXES = ('data', 'fsdp', 'tensor', 'sequence')


def resolve(sizes: Mapping[str, int], device_count: int) -> dict[str, int]:
  """Fills in the axis that is -1.

  Args:
    sizes: devices by axis of AXES; at most one is -1, and an axis that is not
      named is 1.
    device_count: devices there are.

  Returns:
    The sizes, whose product is device_count.

  Raises:
    ConfigError: they do not multiply to it.
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
      f'found -1, and mesh.{free[0]} is -1 too',
      legal='-1 in one axis',
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
      f'{shape} does not make {device_count} devices',
      legal=f'sizes whose product is {device_count}, one of them may be -1',
    )
  return resolved


def make(
  sizes: Mapping[str, int], devices: Sequence[jax.Device]
) -> jax.sharding.Mesh:
  """Builds the mesh over these devices.

  Devices of several TPU slices are connected by the data-center network, which
  is far slower than the links within a slice: only the data axis crosses it.

  Args:
    sizes: see resolve.
    devices: its product of them.

  Raises:
    ConfigError: see resolve; or the data axis does not split into the slices.
  """
  shape = resolve(sizes, len(devices))
  # Auto axes: linen's logical constraints fail under Explicit ones.
  axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices == 1:
    return jax.make_mesh(
      tuple(shape[axis] for axis in AXES),
      AXES,
      axis_types=axis_types,
      devices=np.asarray(devices),
    )
  if shape['data'] % slices:
    raise errors.ConfigError(
      'mesh.data',
      f'found {shape["data"]}, and the devices are in {slices} slices',
      legal=f'a multiple of {slices}: only the data axis spans slices',
    )
  within = shape | {'data': shape['data'] // slices}
  across = dict.fromkeys(AXES, 1) | {'data': slices}
  return jax.sharding.Mesh(
    mesh_utils.create_hybrid_device_mesh(
      tuple(within[axis] for axis in AXES),
      tuple(across[axis] for axis in AXES),
      devices,
      # As jax.make_mesh does for one slice.
      allow_split_physical_axes=devices[0].device_kind.startswith(
        'TPU v5 lite'
      ),
    ),
    AXES,
    axis_types=axis_types,
  )


def platform(
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
) -> tuple[str, float]:
  """Returns the devices' platform, and of GPUs the compute capability, else 0.

  An AbstractMesh must have an abstract device, which is no GPU.
  """
  name = mesh.abstract_mesh.abstract_device.platform
  if name != 'gpu':
    return name, 0.0
  return name, float(mesh.devices.flat[0].compute_capability)
