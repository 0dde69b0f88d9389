"""Checks a config against its devices and creates the meshes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from kd.config import teacher_sections
from kd.core import errors
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import placement
from kd.partitioning import rules
from kd.sampling import fields

# Creates a mesh from the sizes of its axes and the slice of devices to use.
MakeMesh = Callable[[Mapping[str, int], slice], jax.sharding.Mesh]
Config = ml_collections.ConfigDict


def check(config: Config, mesh: jax.sharding.Mesh) -> None:
  """Raises ConfigError if a config field does not fit the devices.

  Args:
    config: a config whose fields are individually legal.
    mesh: the student's mesh.

  Raises:
    ConfigError: a field does not fit the devices.
  """
  _check_rows(config, mesh)
  _check_length(config, mesh)
  _check_pipeline(config, mesh)
  _check_state_memory(config, mesh)
  _check_teacher_memory(config, mesh)


def _check_rows(config, mesh):
  shards = rules.row_shards(mesh)
  micro = config.optimizer.micro_batches
  if config.data.batch_size % (micro * shards):
    raise errors.ConfigError(
      'data.batch_size',
      f'found {config.data.batch_size}, which {micro} micro-batches over '
      f'{shards} devices (mesh.data x mesh.fsdp x mesh.pipeline) do not '
      'divide',
      legal=f'a multiple of {micro * shards}',
    )
  fields.check_devices(
    config.evaluation.batch_size, mesh, 'evaluation.batch_size'
  )


def _check_length(config, mesh):
  shards = rules.length_shards(mesh)
  if config.data.length % shards:
    raise errors.ConfigError(
      'data.length',
      f'found {config.data.length}, which {shards} devices (mesh.sequence) do '
      'not divide',
      legal=f'a multiple of {shards}',
    )


def _check_pipeline(config, mesh):
  stages, wanted = mesh.shape['pipeline'], config.mesh.pipeline_micro_batches
  if stages == 1:
    return
  rows = config.data.batch_size // config.optimizer.micro_batches
  rows //= rules.stage_row_shards(mesh)
  legal = [m for m in range(stages, rows + 1, stages) if rows % m == 0]
  if wanted and wanted not in legal:
    raise errors.ConfigError(
      'mesh.pipeline_micro_batches',
      f'found {wanted}, with {stages} stages and {rows} rows of a micro-batch '
      'on each device of a stage',
      legal=f'0 or {", ".join(map(str, legal))}',
    )
  if config.student.quantize.activation_range == 'running':
    raise errors.ConfigError(
      'student.quantize.activation_range',
      f"found 'running', and mesh.pipeline is {stages}: ranges would be added "
      'up over the parts that pass through a stage',
      legal="'position', or mesh.pipeline=1",
    )


def check_stages(mesh: jax.sharding.Mesh, periods: int, path: str) -> None:
  """Raises ConfigError unless a mesh's stages divide a model's layers.

  Args:
    mesh: the model's mesh.
    periods: number of periods of layers; see family.Config.scan_groups.
    path: config path of the model, for the message.

  Raises:
    ConfigError: mesh.pipeline does not divide the periods.
  """
  stages = mesh.shape[rules.PIPELINE]
  if periods % stages:
    raise errors.ConfigError(
      'mesh.pipeline',
      f'{stages} stages do not divide the {periods} periods of layers of the '
      f'{path}',
      legal=f'a divisor of {periods}',
    )


def _check_state_memory(config, mesh):
  platform, _ = mesh_lib.platform(mesh)
  # jaxlib aborts a process that donates this state to a CPU program.
  if config.optimizer.state_memory == 'host' and platform == 'cpu':
    raise errors.ConfigError(
      'optimizer.state_memory',
      "found 'host', and the devices are CPUs: their memory is the host's",
      legal="'device' here, or devices with memory of their own",
    )


def _check_teacher_memory(config, mesh):
  platform, _ = mesh_lib.platform(mesh)
  if platform != 'cpu' or jax.process_count() == 1:
    return
  for path, section in teacher_sections.of(config).items():
    # Processes may deadlock waiting for each other.
    if section.memory == 'host':
      raise errors.ConfigError(
        f'{path}.memory',
        f"found 'host', on CPUs of {jax.process_count()} processes",
        legal="'device' here, or devices with memory of their own",
      )


def check_teacher_devices(
  config: Config, devices: int, processes: int = 1
) -> None:
  """Raises ConfigError if the teachers get more devices than there are.

  Args:
    config: a config whose fields are individually legal.
    devices: number of devices, excluding those that only sample.
    processes: number of processes, each with the same number of devices.

  Raises:
    ConfigError: teacher.devices is illegal.
  """
  reserved = config.teacher.devices
  if not 0 <= reserved < devices or reserved % processes:
    of = f' in {processes} processes' if processes > 1 else ''
    most = devices - processes
    raise errors.ConfigError(
      'teacher.devices',
      f'found {reserved}, of {devices} devices{of}',
      legal=f'0 to {most}'
      + (f', a multiple of {processes}' if processes > 1 else ''),
    )


def with_teachers_last(config: Config, devices: Sequence[Any]) -> Sequence[Any]:
  """Returns the devices with those reserved for the teachers at the end.

  The last devices of each process are reserved.

  Args:
    config: a config whose fields are individually legal.
    devices: devices of all processes, excluding those that only sample.

  Raises:
    ConfigError: teacher.devices is illegal.
  """
  by_process = _by_process(devices)
  processes = len(by_process)
  check_teacher_devices(config, len(devices), processes)
  count = config.teacher.devices // processes
  if not count:
    return devices
  if any(len(own) <= count for own in by_process.values()):
    raise errors.ConfigError(
      'teacher.devices',
      f'found {config.teacher.devices}, which leaves a process no device for '
      'the student',
      legal='fewer',
    )
  first, last = _split(devices, by_process, count)
  return [*first, *last]


def _by_process(devices):
  by_process: dict[int, list[Any]] = {}
  for device in devices:
    by_process.setdefault(device.process_index, []).append(device)
  return by_process


def _split(devices, by_process, count):
  """Splits off the last `count` devices of each process."""
  last = [d for own in by_process.values() for d in own[-count:]]
  return [d for d in devices if d not in last], last


def split_devices(
  config: Config, devices: Sequence[Any]
) -> tuple[Sequence[Any], Sequence[Any]]:
  """Returns the devices that train, and those that only sample.

  The last devices of each process sample.

  Args:
    config: a config whose fields are individually legal.
    devices: devices of all processes.

  Raises:
    ConfigError: rollout.devices is illegal.
  """
  reserved = config.rollout.devices
  if not reserved:
    return devices, ()
  by_process = _by_process(devices)
  count, rest = divmod(reserved, len(by_process))
  if rest or any(len(own) <= count for own in by_process.values()):
    raise errors.ConfigError(
      'rollout.devices',
      f'found {reserved}, of {len(devices)} devices in {len(by_process)} '
      'processes',
      legal=f'0, or a multiple of {len(by_process)} that leaves each process '
      'devices to train on',
    )
  return _split(devices, by_process, count)


def sampling_mesh(config: Config, devices: Sequence[Any]) -> jax.sharding.Mesh:
  """Returns the mesh of this process's devices that only sample.

  Args:
    config: a config whose fields are individually legal.
    devices: devices of all processes that only sample.

  Raises:
    ConfigError: its axes do not fit the devices, or rows do not fit its axes.
  """
  own = [d for d in devices if d.process_index == jax.process_index()]
  sizes = own_mesh_sizes(config.rollout.mesh, 'data')
  try:
    made = mesh_lib.make(sizes, own)
  except errors.ConfigError as e:
    raise e.within('rollout') from e
  fields.check_devices(
    *(config.rollout.batch_size, made, 'rollout.batch_size'),
    axes='rollout.mesh.data x rollout.mesh.fsdp',
  )
  return made


def own_mesh_sizes(sizes: Mapping[str, int], axis: str) -> dict[str, int]:
  """Returns the sizes of a mesh of reserved devices.

  Args:
    sizes: sizes by axis; 0 counts as 1.
    axis: the axis to split over if all sizes are 0.
  """
  filled = {name: size or 1 for name, size in sizes.items()}
  return filled if any(sizes.values()) else filled | {axis: -1}


def student_mesh(config: Config, make_mesh: MakeMesh) -> jax.sharding.Mesh:
  """Returns the student's mesh: all devices but those of the teachers."""
  return make_mesh(config.mesh, slice(-config.teacher.devices or None))


def teacher_mesh(
  config: Config, mesh: jax.sharding.Mesh, make_mesh: MakeMesh
) -> jax.sharding.Mesh:
  """Returns the mesh of the teachers, which may be the student's.

  Args:
    config: a config whose fields are individually legal.
    mesh: the student's mesh.
    make_mesh: see MakeMesh.

  Raises:
    ConfigError: its axes do not fit the devices, or rows do not fit its axes.
  """
  sizes, reserved = dict(config.teacher.mesh), config.teacher.devices
  if not reserved and not any(sizes.values()):
    return mesh
  filled = own_mesh_sizes(sizes, 'fsdp')
  try:
    made = make_mesh(filled, slice(-reserved or None, None))
  except errors.ConfigError as e:
    raise e.within('teacher') from e
  _check_teacher_rows(config, made)
  return made


def check_reserved(
  config: Config, mesh: jax.sharding.Mesh, teachers: jax.sharding.Mesh
) -> None:
  """Raises ConfigError if reserved devices would need rows of other processes.

  Args:
    config: a config whose fields are individually legal.
    mesh: the student's mesh.
    teachers: the teachers' mesh.
  """
  if config.teacher.devices:
    check_same_rows(*map(placement.process_indices, (mesh, teachers)))


def check_same_rows(student: np.ndarray, teachers: np.ndarray) -> None:
  """Raises ConfigError if batches would move between processes.

  Args:
    student: process of each device, in the shape of the student's mesh.
    teachers: the same of the teachers' mesh, on their own devices.

  Raises:
    ConfigError: teacher.mesh splits rows over processes in another way.
  """
  if not placement.split_alike(student, teachers):
    raise errors.ConfigError(
      'teacher.mesh',
      "a process would have other rows on it than on the student's mesh",
      legal='axes that give each process one block of rows on both meshes, '
      'such as fsdp only',
    )


def _check_teacher_rows(config, mesh):
  for section in ('data', 'evaluation'):
    fields.check_devices(
      *(config[section].batch_size, mesh, f'{section}.batch_size'),
      axes='data x fsdp x pipeline of teacher.mesh',
    )
  if config.data.length % rules.length_shards(mesh):
    raise errors.ConfigError(
      'teacher.mesh.sequence',
      f'found {rules.length_shards(mesh)}',
      legal=f'a divisor of data.length, {config.data.length}',
    )
