"""From a config to everything that a run needs but weights and rows.

This is all that --mode=check does, and the first thing that every other mode
does: what is wrong with a config is found here, before anything is written.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from kd.config import base
from kd.config import rules as config_rules
from kd.core import errors
from kd.core import paths
from kd.core import types
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.losses import catalog
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import terms as terms_lib
from kd.models import gemma3
from kd.models import gemma3_config
from kd.models import kernels
from kd.optimizers import optimizers
from kd.partitioning import membership
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.sampling import fields
from kd.teachers import manifest
from kd.teachers import methods
from kd.train import architectures
from kd.train import rollout_fields
from kd.train import search_fields
from kd.train import vocabularies


@dataclasses.dataclass(frozen=True)
class Model:
  """A student or a teacher, without its parameters.

  Attributes:
    module: the linen module.
    init: where its parameters come from.
    source: sizes of what `init` names.
    keep_layers: layers of that which it has; (): all.
    shardings: where each parameter lies.
    param_dtype: of its parameters in memory.
  """

  module: gemma3.Gemma3
  init: str
  source: gemma3_config.Gemma3Config
  keep_layers: tuple[int, ...]
  shardings: types.PyTree
  param_dtype: str

  @property
  def config(self) -> gemma3_config.Gemma3Config:
    return self.module.config

  @property
  def mesh(self) -> jax.sharding.Mesh:
    """The devices that it is on."""
    return jax.tree.leaves(self.shardings)[0].mesh

  def identity(self, weights: str) -> dict[str, Any]:
    """Returns what decides the model's outputs, as JSON.

    Args:
      weights: the digest of its parameters, from fingerprints.of.
    """
    return {
      'weights': weights,
      'dtype': str(jnp.dtype(self.module.dtype)),
      **dataclasses.asdict(self.config),
    }


@dataclasses.dataclass(frozen=True)
class Run:
  """A config that was found right, and what follows from it.

  Attributes:
    config: frozen.
    mesh: the student's devices, and those that batches and targets are on.
    tokenizer: of student and teacher; None from `shapes`.
    student: the model that is trained.
    teachers: the models that it learns from, with their shares, the one that
      the config calls `teacher` first; () without a teacher.
    objective: what is made small.
    optimizer: the gradient transformation.
    rate: its learning rate by update.
  """

  config: ml_collections.FrozenConfigDict
  mesh: jax.sharding.Mesh
  tokenizer: tokenizers.Tokenizer | None
  student: Model
  teachers: tuple[tuple[Model, float], ...]
  objective: objective_lib.Objective
  optimizer: optax.GradientTransformation
  rate: Callable[[int], float]

  @property
  def teacher(self) -> Model | None:
    return self.teachers[0][0] if self.teachers else None


def _check_rows(config, mesh):
  parts = rules.row_parts(mesh)
  micro = config.optimizer.micro_batches
  if config.data.batch_size % (micro * parts):
    raise errors.ConfigError(
      'data.batch_size',
      f'found {config.data.batch_size}, which {micro} micro-batches over '
      f'{parts} devices (mesh.data x mesh.fsdp) do not divide',
      legal=f'a multiple of {micro * parts}',
    )
  fields.check_devices(
    config.evaluation.batch_size, mesh, 'evaluation.batch_size'
  )


def _check_length_parts(config, mesh):
  parts = rules.length_parts(mesh)
  if config.data.length % parts:
    raise errors.ConfigError(
      'data.length',
      f'found {config.data.length}, which {parts} devices (mesh.sequence) do '
      'not divide',
      legal=f'a multiple of {parts}',
    )


def _check_teacher_devices(config, devices):
  own = config.teacher.devices
  if not 0 <= own < len(devices):
    raise errors.ConfigError(
      'teacher.devices',
      f'found {own}, of {len(devices)} devices',
      legal=f'0 to {len(devices) - 1}',
    )
  if own and jax.process_count() > 1:
    raise errors.ConfigError(
      'teacher.devices',
      f'found {own}, and there are {jax.process_count()} processes',
      legal='0, or one process',
    )


def _teacher_mesh(config, mesh, make_mesh):
  """The teachers' mesh, which may be the student's."""
  sizes, own = dict(config.teacher.mesh), config.teacher.devices
  if not own and not any(sizes.values()):
    return mesh
  if not any(sizes.values()):
    sizes['fsdp'] = -1
  filled = {axis: size or 1 for axis, size in sizes.items()}
  try:
    found = make_mesh(filled, slice(-own or None, None))
  except errors.ConfigError as e:
    raise e.within('teacher') from e
  parts = rules.row_parts(found)
  for path in ('data.batch_size', 'evaluation.batch_size'):
    section, name = path.split('.')
    if config[section][name] % parts:
      raise errors.ConfigError(
        path,
        f'found {config[section][name]}, which {parts} devices '
        '(teacher.mesh.data x teacher.mesh.fsdp) do not divide',
        legal=f'a multiple of {parts}',
      )
  if config.data.length % rules.length_parts(found):
    raise errors.ConfigError(
      'teacher.mesh.sequence',
      f'found {rules.length_parts(found)}',
      legal=f'a divisor of data.length, {config.data.length}',
    )
  return found


def _check_state_memory(config, mesh):
  platform, _ = mesh_lib.platform(mesh)
  # jaxlib aborts the process when a CPU program is given such a state for good.
  if config.optimizer.state_memory == 'host' and platform == 'cpu':
    raise errors.ConfigError(
      'optimizer.state_memory',
      "found 'host', and the devices are CPUs: their memory is the host's",
      legal="'device' here, or devices with memory of their own",
    )


def _model(spec, path, source, sizes, mesh, remat, packed):
  module = gemma3.build(sizes, spec.dtype, remat, path)
  kernel = kernels.choose(
    spec.attention,
    sizes,
    spec.dtype,
    kernels.Place(*mesh_lib.platform(mesh), packed, rules.length_parts(mesh)),
    f'{path}.attention',
  )
  module = module.clone(kernel=kernel)
  boxed = gemma3.abstract_params(module)
  shardings = rules.param_shardings(
    mesh, gemma3.logical_axes(module), gemma3.unbox(boxed), path
  )
  keep = tuple(spec['keep_layers']) if 'keep_layers' in spec else ()
  param_dtype = spec['param_dtype'] if 'param_dtype' in spec else 'float32'
  return Model(module, spec.init, source, keep, shardings, param_dtype)


def teacher_specs(
  config: ml_collections.ConfigDict,
) -> dict[str, ml_collections.ConfigDict]:
  """What the config says of each teacher, by its path, `teacher` first."""
  if config.teacher.source not in ('live', 'rollout'):
    return {}
  return {'teacher': config.teacher} | {
    f'teacher.others.{name}': spec
    for name, spec in sorted(config.teacher.others.items())
  }


def _teachers(config, mesh, source_config):
  """The teachers with their shares, which are made to sum to 1."""
  models = []
  for path, spec in teacher_specs(config).items():
    sizes = source_config(spec, path, None)
    packed = config.data.pack
    model = _model(spec, path, sizes, sizes, mesh, 'none', packed)
    _check_length(config, path, sizes)
    models.append((model, spec.share))
  whole = sum(share for _, share in models)
  return tuple((model, share / whole) for model, share in models)


def _objective(config, student, teachers):
  teacher = teachers[0][0] if teachers else None
  cached = config.teacher.source == 'cached'
  if cached:
    # Its sizes are for terms of layers alone, which are refused below.
    teacher = student
  context = terms_lib.Context(
    steps=config.steps,
    student=architectures.term_sizes(student.config),
    teacher=teacher and architectures.term_sizes(teacher.config),
  )
  objective = objective_lib.Objective(
    terms=catalog.build(config.losses.to_dict(), context),
    selection=selection.build(
      config.objective.positions.to_dict(),
      'objective.positions',
      config.steps,
    ),
    chunk_tokens=config.objective.chunk_tokens,
  )
  if cached and objective.taps_terms:
    raise errors.ConfigError(
      f'losses.{objective.taps_terms[0].key}',
      'compares layers, of which a cache holds nothing',
      legal='a term of next-token distributions, or a teacher that is live',
    )
  if objective.selection.needs_teacher and teacher is None:
    raise errors.ConfigError(
      'objective.positions.rule',
      f'found {objective.selection.rule!r}, and there is no teacher',
      legal="'all', 'random', 'student_entropy'",
    )
  return objective


def _check_length(config, name, sizes):
  if config.data.length > sizes.context:
    raise errors.ConfigError(
      'data.length',
      f'found {config.data.length}, longer than the context of the {name}',
      legal=f'up to {sizes.context}',
    )


def shapes(
  config: ml_collections.ConfigDict,
  make_mesh: Callable[[Mapping[str, int], slice], jax.sharding.Mesh],
  source_config: Callable[..., gemma3_config.Gemma3Config],
) -> Run:
  """What follows from a config without weights and tokenizers.

  Args:
    config: as the flag gave it.
    make_mesh: from the config's `mesh` to some of the devices.
    source_config: which sizes a model has; see architectures.source_config.

  Raises:
    ConfigError: names the first thing that is wrong.
  """
  config = base.checked(config)
  config_rules.check(config)
  search_fields.check(config.search)
  methods.METHODS.build(config.cache.method.to_dict(), 'cache.method')
  mesh = make_mesh(config.mesh, slice(-config.teacher.devices or None))
  _check_rows(config, mesh)
  optimizer, rate = optimizers.build(config.optimizer, config.steps)
  _check_length_parts(config, mesh)
  _check_state_memory(config, mesh)
  teacher_mesh = _teacher_mesh(config, mesh, make_mesh)
  teachers = _teachers(config, teacher_mesh, source_config)
  teacher = teachers[0][0] if teachers else None
  source = source_config(config.student, 'student', teacher and teacher.config)
  sizes = architectures.student_config(config.student, source)
  student = _model(
    config.student,
    'student',
    source,
    sizes,
    mesh,
    config.student.remat,
    config.data.pack,
  )
  _check_length(config, 'student', sizes)
  objective = _objective(config, student, teachers)
  rollout_fields.check_run(config, mesh, student.module, objective)
  return Run(
    config=ml_collections.FrozenConfigDict(config),
    mesh=mesh,
    tokenizer=None,
    student=student,
    teachers=teachers,
    objective=objective,
    optimizer=optimizer,
    rate=rate,
  )


def resolve(config: ml_collections.ConfigDict, devices: Any) -> Run:
  """Checks a config and builds what follows from it.

  Args:
    config: as the flag gave it.
    devices: the devices of all processes.

  Returns:
    The run.

  Raises:
    ConfigError: names the first thing that is wrong.
  """
  membership.check(config.processes)
  _check_teacher_devices(config, devices)
  make_mesh = lambda sizes, part: mesh_lib.make(sizes, devices[part])
  run = shapes(config, make_mesh, architectures.source_config)
  specs = teacher_specs(config)
  if config.teacher.source == 'cached':
    folder = paths.expand(config.cache.folder)
    manifest.read(folder, 'cache.folder')
  tokenizer = vocabularies.tokenizer(config, specs)
  vocabularies.check(tokenizer, 'student', run.student.config)
  for path, (model, _) in zip(specs, run.teachers, strict=True):
    vocabularies.check(tokenizer, path, model.config)
  templates.check_tokenizer(tokenizer, config.data.template, 'data.template')
  return dataclasses.replace(run, tokenizer=tokenizer)
