"""Resolves a config to the objects of a run, without weights and rows.

The modes check, train, cache and search start here, so that errors in a config
are found before anything is written.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import ml_collections

from kd.checkpoints import weights
from kd.config import base
from kd.config import rules as config_rules
from kd.core import errors
from kd.images import features
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers
from kd.losses import importance
from kd.losses import layer_objective
from kd.losses import modalities
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.models import families
from kd.models import family
from kd.models.attention import attention_backend
from kd.optimizers import optimizers
from kd.optimizers import parameter_groups
from kd.partitioning import membership
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.pruning import scores
from kd.pruning import sizes as prune_sizes
from kd.run import meshes
from kd.run import model_checks
from kd.run import model_sizes
from kd.run import own_tokenizer
from kd.run import representations
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import shared_tokenizer
from kd.run import source as source_lib
from kd.run import teacher_prefix
from kd.run import towers
from kd.sampling import engine

# A function such as model_sizes.source_config.
SourceConfig = Callable[..., family.Config]
Config = ml_collections.ConfigDict
# Prefix of the paths of a tower's parameters.
_TOWER = 'vision.tower.'


def build_model(
  config: Config,
  spec: Config,
  path: str,
  source: family.Config,
  sizes: family.Config,
  mesh: jax.sharding.Mesh,
  remat: str,
) -> resolved.Model:
  """Builds a model without its parameters.

  Args:
    config: the run's config.
    spec: section of the model in the config.
    path: path of the section.
    source: sizes of the model that its init names.
    sizes: sizes of the model itself.
    mesh: mesh of the model.
    remat: see student.remat.

  Raises:
    ConfigError: the devices do not support the kernel, or do not divide a size.
  """
  meshes.check_stages(mesh, sizes.scan_groups, path)
  module = families.build(sizes, spec.dtype, remat, path)
  kernel = attention_backend.choose(
    spec.attention,
    sizes,
    spec.dtype,
    attention_backend.Place(
      *mesh_lib.platform(mesh), config.data.pack, rules.length_shards(mesh)
    ),
    f'{path}.attention',
  )
  parts = config.mesh.pipeline_micro_batches
  module = module.clone(kernel=kernel, pipeline_micro_batches=parts)
  represented = representations.teacher
  if path == 'student':
    represented = representations.student
  module = represented(module, spec.to_dict(), path)
  shardings = rules.param_shardings(
    mesh, module.logical_axes(), module.abstract_params(), path
  )
  keep, keep_tower = (
    tuple(spec[name]) if name in spec else ()
    for name in ('keep_layers', 'keep_tower_layers')
  )
  param_dtype = spec['param_dtype'] if 'param_dtype' in spec else 'float32'
  prune = prune_sizes.request(spec['prune']) if 'prune' in spec else None
  dither = spec['quantize']['dither'] if 'dither' in spec['quantize'] else 0.0
  vision_init = spec.vision_init
  if spec.vision == model_sizes.TEACHERS_VISION:
    vision_init = spec.vision
  return resolved.Model(
    *(module, spec.init, source, keep, shardings, param_dtype, prune, dither),
    vision_init=vision_init,
    keep_tower_layers=keep_tower,
  )


def source_sizes(
  config: Config, specs: Mapping[str, Config], source_config: SourceConfig
) -> dict[str, family.Config]:
  """Returns the sizes of the model that each init names.

  Args:
    config: the run's config.
    specs: sections of the teachers by path; see Source.teacher_specs.
    source_config: a function such as model_sizes.source_config.

  Returns:
    Sizes by the model's path, including 'student'.

  Raises:
    ConfigError: an init or variant is illegal.
  """
  sizes = {
    path: source_config(spec, path, None) for path, spec in specs.items()
  }
  teacher = sizes.get('teacher')
  return sizes | {'student': source_config(config.student, 'student', teacher)}


def build_teachers(
  config: Config,
  specs: Mapping[str, Config],
  sizes: Mapping[str, family.Config],
  mesh: jax.sharding.Mesh,
) -> tuple[resolved.Teacher, ...]:
  """Returns the teachers with their weights in the mixture, which sum to 1.

  Args:
    config: the run's config.
    specs: sections of the teachers by path.
    sizes: sizes by path, from source_sizes.
    mesh: the teachers' mesh.

  Raises:
    ConfigError: rows are longer than a context, or axes do not divide a size.
  """
  models = []
  for path, spec in specs.items():
    size = sizes[path]
    model = build_model(config, spec, path, size, size, mesh, 'none')
    if not own_tokenizer.is_used(config):
      model_checks.check_length(config, path, size)
    models.append((model, spec.weight))
  whole = sum(weight for _, weight in models)
  return tuple(
    resolved.Teacher(model, weight / whole) for model, weight in models
  )


def build_student(
  config: Config, source: family.Config, mesh: jax.sharding.Mesh
) -> resolved.Model:
  """Returns the student with the layers of its source that it keeps.

  Args:
    config: the run's config.
    source: sizes of the model that student.init names.
    mesh: the student's mesh.

  Raises:
    ConfigError: as for build_teachers, or it keeps layers that do not exist.
  """
  sizes = model_sizes.student_config(config.student, source)
  model_checks.check_length(config, 'student', sizes)
  remat = config.student.remat
  return build_model(
    config, config.student, 'student', source, sizes, mesh, remat
  )


def _objective(config, source, student, teachers):
  teacher = source.term_teacher(student, teachers)
  context = terms_lib.Context(
    steps=config.steps,
    student=model_sizes.term_sizes(student.config),
    teacher=teacher and model_sizes.term_sizes(teacher.config),
  )
  spec = config.objective
  objective = objective_lib.Objective(
    terms=term_builder.build(config.losses.to_dict(), context),
    selection=selection.build(
      spec.positions.to_dict(), 'objective.positions', config.steps
    ),
    chunk_tokens=spec.chunk_tokens,
    modalities=modalities.build(
      spec.modalities.to_dict(), 'objective.modalities', config.steps
    ),
    shares_tower=(
      config.student.vision == model_sizes.TEACHERS_VISION
      and config.data.images.features == features.NONE
    ),
    importance=importance.build(source.sampling()),
    teachers=routed_teachers.names(config),
  )
  model_checks.check_vision(config, objective, student)
  own_tokenizer.check(config, objective)
  teacher_prefix.check(config, objective)
  routed_teachers.check(config, objective)
  if objective.selection.needs_teacher and teacher is None:
    raise errors.ConfigError(
      'objective.positions.rule',
      f'found {objective.selection.rule!r}, and there is no teacher',
      legal="'all', 'random', 'student_entropy'",
    )
  return objective


def _optimizer(config, student, objective):
  """Returns the optimizer with its groups, and the learning rate."""
  groups = parameter_groups.build(
    config.optimizer.groups.to_dict(), 'optimizer.groups', config.steps
  )
  is_frozen = student.module.is_frozen
  if config.student.vision == model_sizes.TEACHERS_VISION:
    of_model = is_frozen
    is_frozen = lambda path: path.startswith(_TOWER) or of_model(path)
  split = parameter_groups.ParameterGroups(
    student.config, groups, config.optimizer.layer_decay, is_frozen
  )
  # Only the shapes are needed.
  projections, _ = jax.eval_shape(
    lambda: layer_objective.init(objective.layer_terms, jax.random.key(0))
  )
  split.check((student.module.abstract_params(), projections))
  return optimizers.build(
    config.optimizer, config.steps, split, config.ema.decay
  )


def shapes(
  config: ml_collections.ConfigDict,
  make_mesh: meshes.MakeMesh,
  source_config: SourceConfig,
  sampling_devices: Sequence[jax.Device] = (),
) -> resolved.Run:
  """Builds a run from shapes only, without weights and tokenizers.

  Args:
    config: the config given on the command line.
    make_mesh: function that creates meshes of devices that train.
    source_config: a function such as model_sizes.source_config.
    sampling_devices: devices of all processes that only sample.

  Raises:
    ConfigError: the config is wrong; names the first fault.
  """
  config = base.checked(config)
  source = source_lib.of(config)
  specs = source.teacher_specs()
  sizes = source_sizes(config, specs, source_config)
  config_rules.check(config)
  model_checks.check_search(config.search)
  mesh = meshes.student_mesh(config, make_mesh)
  meshes.check(config, mesh)
  teacher_mesh = meshes.teacher_mesh(config, mesh, make_mesh)
  teachers = build_teachers(config, specs, sizes, teacher_mesh)
  student = build_student(config, sizes['student'], mesh)
  sampler = None
  if sampling_devices:
    own = meshes.sampling_mesh(config, sampling_devices)
    sampler = build_student(config, sizes['student'], own)
  objective = _objective(config, source, student, teachers)
  source.check(mesh, student, objective)
  optimizer, learning_rate = _optimizer(config, student, objective)
  engine.check_room(
    student.module,
    config.evaluation.max_new_tokens,
    'evaluation.max_new_tokens',
  )
  run = resolved.Run(
    config=ml_collections.FrozenConfigDict(config),
    mesh=mesh,
    tokenizer=None,
    student=student,
    teachers=teachers,
    objective=objective,
    optimizer=optimizer,
    learning_rate=learning_rate,
    sampler=sampler,
  )
  model_checks.check_features(run)
  if run.teachers and teacher_prefix.reads_own_rows(config):
    own_tokenizer.check_rows(run)
  return run


def resolve(config: ml_collections.ConfigDict, devices: Any) -> resolved.Run:
  """Validates a config and builds the run from it.

  Args:
    config: the config given on the command line.
    devices: devices of all processes.

  Returns:
    The run.

  Raises:
    ConfigError: the config is wrong; names the first fault.
  """
  config = base.checked(config)
  membership.check(config.processes)
  devices, sampling = meshes.split_devices(config, devices)
  devices = meshes.with_teachers_last(config, devices)
  specs = source_lib.of(config).teacher_specs()
  is_own = own_tokenizer.is_used(config)
  shared = {} if is_own else specs
  sources = init_sources({**shared, 'student': config.student})
  # Loaded lazily, so that cheaper checks in `shapes` fail first.
  tokenizer = functools.cache(lambda: _load_tokenizer(config, sources))
  own = functools.partial(own_tokenizer.load, config.teacher.init)
  source_config = shared_tokenizer.source_config(
    tokenizer, own if is_own else None
  )
  run = shapes(config, mesh_maker(devices), source_config, sampling)
  if run.teachers:
    meshes.check_reserved(config, run.mesh, run.teacher.mesh)
  run = with_tokenizer(run, tokenizer())
  check_scores(run.student)
  for path, spec in {**specs, 'student': config.student}.items():
    _check_weights(spec, f'{path}.init')
  towers.check_adapters(run)
  return run


def check_scores(student: resolved.Model) -> None:
  """Raises ConfigError if a student to prune has no matching scores."""
  if student.prune is not None:
    scores.load(student.prune, student.source)


def _load_tokenizer(config, sources):
  first = source_lib.of(config).tokenizer_inits()
  return shared_tokenizer.tokenizer(config.data, {**first, **sources})


def mesh_maker(devices: Sequence[jax.Device]) -> meshes.MakeMesh:
  """Returns a function that creates meshes of some of the devices."""
  return lambda sizes, part: mesh_lib.make(sizes, devices[part])


def init_sources(specs: Mapping[str, Config]) -> dict[str, str]:
  """Returns the models' inits by the fields that name them."""
  return {f'{path}.init': spec.init for path, spec in specs.items()}


def _check_weights(spec, path):
  """Checks the headers of a model's files, without reading the weights."""
  if spec.init.partition(':')[0] in weights.PREFIXES:
    has_tower = spec.vision != model_sizes.NO_VISION
    weights.check_headers(spec.init, path, has_tower)


def with_tokenizer(
  run: resolved.Run, tokenizer: tokenizers.Tokenizer
) -> resolved.Run:
  """Adds the tokenizer to a run.

  Raises:
    ConfigError: a model has too few embeddings, or the tokenizer lacks a token
      of the template.
  """
  models = {'student': run.student}
  if run.teachers:
    specs = source_lib.of(run.config).teacher_specs()
    models |= zip(specs, run.teacher_models, strict=True)
  is_own = own_tokenizer.is_used(run.config)
  for path, model in models.items():
    chosen = tokenizer
    if is_own and path != 'student':
      chosen = own_tokenizer.load(run.config.teacher.init)
    shared_tokenizer.check(chosen, path, model.config)
  template = run.config.data.template
  templates.check_tokenizer(tokenizer, template, 'data.template')
  objective = run.objective.with_vocabulary(tokenizer.vocab_size)
  run = dataclasses.replace(run, tokenizer=tokenizer, objective=objective)
  if is_own and run.teachers:
    own_tokenizer.rows(run)
  return run
