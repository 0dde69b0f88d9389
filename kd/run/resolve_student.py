"""Resolves a config for modes that do not train, such as eval and export."""

from collections.abc import Sequence
import dataclasses

import jax
import ml_collections

from kd.checkpoints import manager
from kd.config import base
from kd.core import errors
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.partitioning import membership
from kd.run import meshes
from kd.run import model_checks
from kd.run import model_sizes
from kd.run import resolve as resolve_lib
from kd.run import resolved
from kd.run import shared_tokenizer
from kd.run import source as source_lib
from kd.run import teacher_prefix
from kd.sampling import fields

Config = ml_collections.ConfigDict


def resolve_student(
  config: Config,
  devices: Sequence[jax.Device],
  workdir: str,
  with_teachers: bool = False,
) -> resolved.Run:
  """Resolves a config for a mode that does not train.

  The student is that of the workdir's checkpoints, or else the one that
  student.init names. Neither losses nor a teacher are needed.

  Args:
    config: the config given on the command line.
    devices: devices of all processes.
    workdir: a folder that may contain a run.
    with_teachers: whether the teachers are needed too.

  Returns:
    A run without terms in its objective and without an optimizer.

  Raises:
    ConfigError: the config is wrong; names the first fault.
  """
  config = base.checked(config)
  membership.check(config.processes)
  devices, _ = meshes.split_devices(config, devices)
  devices = meshes.with_teachers_last(config, devices)
  model_checks.check_search(config.search)
  make_mesh = resolve_lib.mesh_maker(devices)
  mesh = meshes.student_mesh(config, make_mesh)
  rows = config.evaluation.batch_size
  fields.check_devices(rows, mesh, 'evaluation.batch_size')
  # There is no comparison with a teacher that has its own rows.
  compares = with_teachers and not teacher_prefix.reads_own_rows(config)
  specs = source_lib.of(config).teacher_specs() if compares else {}
  sources = resolve_lib.init_sources(specs)
  if manager.latest_step(workdir) is not None:
    sources = {'--workdir': f'workdir:{workdir}', **sources}
    tokenizer = shared_tokenizer.tokenizer(config.data, sources)
    student = _trained(config, workdir, mesh)
    source_config = shared_tokenizer.source_config(lambda: tokenizer)
    sizes = {
      path: source_config(spec, path, None) for path, spec in specs.items()
    }
  else:
    sources = {'student.init': config.student.init, **sources}
    _check_has_weights(config, workdir)
    tokenizer = shared_tokenizer.tokenizer(config.data, sources)
    source_config = shared_tokenizer.source_config(lambda: tokenizer)
    sizes = resolve_lib.source_sizes(config, specs, source_config)
    student = resolve_lib.build_student(config, sizes['student'], mesh)
    resolve_lib.check_scores(student)
  teachers_mesh = mesh
  if specs:
    teachers_mesh = meshes.teacher_mesh(config, mesh, make_mesh)
    meshes.check_reserved(config, mesh, teachers_mesh)
  run = resolved.Run(
    config=ml_collections.FrozenConfigDict(config),
    mesh=mesh,
    tokenizer=None,
    student=student,
    teachers=resolve_lib.build_teachers(config, specs, sizes, teachers_mesh),
    objective=_empty_objective(config),
    optimizer=None,
    learning_rate=None,
  )
  return resolve_lib.with_tokenizer(run, tokenizer)


def _trained(config, workdir, mesh):
  """Returns the student that the workdir's run has trained."""
  sizes = model_sizes.from_workdir(workdir, '--workdir')
  student = resolve_lib.build_model(
    config,
    config.student,
    'student',
    source=sizes,
    sizes=sizes,
    mesh=mesh,
    remat=config.student.remat,
  )
  # It was already pruned before training.
  return dataclasses.replace(student, prune=None)


def _check_has_weights(config: Config, workdir: str) -> None:
  """Raises ConfigError unless student.init names weights."""
  if config.student.init in ('random', 'teacher'):
    raise errors.ConfigError(
      '--workdir',
      f'{workdir!r} contains no checkpoint, and student.init is '
      f'{config.student.init!r}',
      legal='the workdir of a run, or student.init=hf:DIR or gguf:FILE',
    )
  if config.student.vision == model_sizes.TEACHERS_VISION:
    raise errors.ConfigError(
      '--workdir',
      f'{workdir!r} contains no checkpoint, and student.vision is '
      f'{config.student.vision!r}: only a trained student contains the '
      "teacher's tower",
      legal="the workdir of a run, or student.vision='own' with the tower in "
      'student.vision_init',
    )


def _empty_objective(config):
  """Returns an objective without terms."""
  return objective_lib.Objective(
    terms=(),
    selection=selection.everywhere(),
    chunk_tokens=config.objective.chunk_tokens,
  )
