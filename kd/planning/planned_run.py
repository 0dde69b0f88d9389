"""Builds the run to plan from its config, without weights or devices."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from kd.core import errors
from kd.models import families
from kd.models import family
from kd.partitioning import mesh as mesh_lib
from kd.run import meshes
from kd.run import model_sizes
from kd.run import resolve
from kd.run import resolved

# On slices with several hosts, as in libtpu's topologies.
_CHIPS_OF_A_HOST = 4


def changed(
  config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Returns a copy of the config with some fields changed.

  Args:
    config: the config.
    changes: new values by dotted field.
  """
  copy = ml_collections.ConfigDict(config.to_dict())
  copy.update_from_flattened_dict(dict(changes))
  return copy


def source_config(
  spec: Mapping[str, Any],
  path: str,
  teacher: family.Config | None,
) -> family.Config:
  """Returns the config of a model; unlike for training, a variant is enough.

  Args:
    spec: the model's section of the config.
    path: the section's dotted path, for messages.
    teacher: the teacher's config, for a student initialized from it.

  Raises:
    ConfigError: neither a variant nor weights are given; or see
      model_sizes.source_config.
  """
  if spec['variant'] and spec['init'] != 'teacher':
    named = families.variant(spec['variant'], f'{path}.variant', True)
    return model_sizes.with_vision(named, spec, path, teacher)
  if not spec['variant'] and not spec['init']:
    raise errors.ConfigError(
      f'{path}.variant',
      f"found '', and {path}.init names no weights",
      legal=', '.join(families.variants()),
    )
  return model_sizes.source_config(spec, path, teacher)


def on_devices(config: ml_collections.ConfigDict, devices: Any) -> resolved.Run:
  """Returns the run on the given devices, which need not exist.

  Raises:
    ConfigError: see resolve.shapes.
  """
  # A run may use other devices, but the compiler only accepts adjacent ones.
  # Programs for meshes of the same shape are otherwise the same.
  count = len(devices) - config.rollout.devices
  meshes.check_teacher_devices(config, count)
  _check_divides(config, count, len(devices))
  if count < len(devices):
    devices = sorted(devices, key=lambda device: device.id)
  make = resolve.mesh_maker(devices[:count])
  return resolve.shapes(config, make, source_config)


def _check_divides(config, count, chips):
  """Raises ConfigError for parts of a slice that crash the TPU compiler."""
  for path, part in (
    ('rollout.devices', count),
    ('teacher.devices', count - config.teacher.devices),
  ):
    if chips % part:
      raise errors.ConfigError(
        path,
        f'leaves {part} of {chips} chips, for which the TPU compiler does not '
        'support all-reduce',
        legal='a number that leaves a half or a quarter, or plan.compile=False',
      )


def on_abstract_mesh(
  config: ml_collections.ConfigDict, chips: int
) -> resolved.Run:
  """Returns the run on a mesh without devices; enough for estimates.

  Raises:
    ConfigError: see resolve.shapes.
  """
  devices = range(chips - config.rollout.devices)
  hosts = max(1, chips // _CHIPS_OF_A_HOST)
  meshes.check_teacher_devices(config, len(devices), hosts)

  def make(sizes, part):
    shape = mesh_lib.resolve(sizes, len(devices[part]))
    return jax.sharding.AbstractMesh(
      tuple(shape.values()),
      tuple(shape),
      axis_types=(jax.sharding.AxisType.Auto,) * len(shape),
      abstract_device=jax.sharding.AbstractDevice('TPU', None, 'tpu'),
    )

  run = resolve.shapes(config, make, source_config)
  if config.teacher.devices and run.teachers:
    pair = run.mesh, run.teachers[0].model.mesh
    meshes.check_same_rows(*(_by_host(mesh, hosts) for mesh in pair))
  return run


def _by_host(mesh, hosts):
  """Returns the host index of each device, in the mesh's shape."""
  *rest, stages = (mesh.shape[axis] for axis in mesh_lib.AXES)
  by_stage = np.arange(mesh.size) * hosts // mesh.size
  return np.moveaxis(by_stage.reshape(stages, *rest), 0, -1)
