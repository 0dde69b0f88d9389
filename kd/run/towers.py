"""Loads a vision tower from another source than the rest of the model."""

from collections.abc import Sequence
import logging

import jax
import ml_collections
import numpy as np

from kd.checkpoints import vision_weights
from kd.checkpoints import weights
from kd.core import errors
from kd.core import types
from kd.models import families
from kd.run import model_sizes
from kd.run import resolved


def init_has_projector(
  model: resolved.Model, path: str, teacher_params: types.PyTree | None
) -> bool:
  """Returns whether `init` has a projector that fits the model's tower.

  Args:
    model: a model with another tower than `init`.
    path: config path of `init`, for messages.
    teacher_params: parameters of the teacher, or their shapes, for init
      'teacher'.
  """
  kind, _, _ = model.init.partition(':')
  if kind in weights.PREFIXES:
    there = weights.model_config(model.init, path, True).vision
    return there == model.source.vision
  if kind == 'teacher':
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    of_source = families.build(model.source, 'float32', 'none', path)
    own = of_source.abstract_params()['vision']
    return shapes(teacher_params.get('vision')) == shapes(own)
  # A run's tower was compared before; a random projector does not count.
  return kind == 'workdir'


def check_adapters(run: resolved.Run) -> None:
  """Raises ConfigError if a random projector would not be trained.

  Args:
    run: the resolved config.

  Raises:
    ConfigError: student.lora.rank is above 0 with a random projector, or a file
      is damaged.
  """
  student, rank = run.student, run.config.student.lora.rank
  if not rank or not student.vision_init:
    return
  teachers = [model.module.abstract_params() for model in run.teacher_models]
  shapes = teachers[0] if teachers else None
  if init_has_projector(student, 'student.init', shapes):
    return
  opened = _open(student, 'student.init')
  if not _maps_to_its_width(student, opened, shapes):
    raise errors.ConfigError(
      'student.lora.rank',
      f'found {rank}, and the projector of the vision tower would be random: '
      'student.init has a projector for another tower, and the tower has a '
      'projector of another width; adapters do not train the projector',
      legal='0, with all but vision.projector frozen by optimizer.groups; then '
      'the workdir of that run as student.init (docs/vision.md)',
    )


def _maps_to_its_width(model, opened, teacher_params) -> bool:
  """Returns whether the projector of `vision_init` maps to the model's width.

  Args:
    model: a model with `vision_init`.
    opened: see `_open`.
    teacher_params: parameters of the teacher or their shapes, for its tower.
  """
  if opened is None:
    width = teacher_params['vision']['projector']['kernel'].shape[1]
  else:
    width = opened.text_dim
  return width == model.source.embed_dim


def _open(model, path) -> vision_weights.Source | None:
  """Opens the files of `vision_init`; None if the tower is the teacher's."""
  if model.vision_init == model_sizes.TEACHERS_VISION:
    return None
  field = path.removesuffix('init') + 'vision_init'
  chosen = families.of(model.config)
  return vision_weights.open_(model.vision_init, chosen, field)


def load(
  model: resolved.Model,
  params: types.PyTree,
  seed: int,
  path: str,
  teacher_params: types.PyTree | None,
) -> types.PyTree:
  """Loads the parameters of the tower and of the projector.

  The projector is that of `init` if it has one, else that of the tower if it
  maps to the model's width, else random.

  Args:
    model: a model with `vision_init`.
    params: the model's other parameters, possibly with a vision tower.
    seed: seed of a random projector.
    path: config path of `init`, for messages.
    teacher_params: parameters of the teacher, for a shared tower.

  Raises:
    ConfigError: a value in the tower's files is not finite.
  """
  own = params.get('vision')
  shardings = model.shardings['vision']
  opened = _open(model, path)
  fits = _maps_to_its_width(model, opened, teacher_params)
  if opened is None:
    source = teacher_params['vision']
    names = ['tower', 'projector'] if fits and not own else ['tower']
    loaded = vision_weights.copied(
      {name: source[name] for name in names},
      {name: shardings[name] for name in names},
      model.param_dtype,
    )
  else:
    loaded = vision_weights.load(
      *(opened, shardings, model.param_dtype),
      *(fits, path.removesuffix('init') + 'vision_init'),
    )
  if 'projector' in loaded:
    return loaded
  if own:
    return loaded | {'projector': own['projector']}
  if not fits:
    logging.getLogger(__name__).info(
      "vision: the projector of %s maps to another width than the model's %d: "
      'a new one is trained',
      *(model.vision_init, model.config.embed_dim),
    )
    make = jax.jit(
      lambda key: model.module.init_params(key)['vision']['projector'],
      out_shardings=shardings['projector'],
    )
    projector = make(jax.random.key(seed))
    loaded['projector'] = jax.tree.map(
      lambda x: x.astype(model.param_dtype), projector
    )
  return loaded


def teacher_tower_source(config: ml_collections.ConfigDict) -> str:
  """Returns the source of the teacher's tower, for modes without a teacher.

  Args:
    config: a config with student.vision 'teacher'.

  Returns:
    A value of `vision_init`; '' if student.init, 'teacher', has the tower.

  Raises:
    ConfigError: the tower is not in files.
  """
  teacher = config.teacher
  if config.student.init == 'teacher':
    return teacher.vision_init
  tower = teacher.vision_init or teacher.init
  if tower.partition(':')[0] not in weights.PREFIXES:
    raise errors.ConfigError(
      'student.vision',
      f'found {config.student.vision!r}, and teacher.init is {teacher.init!r}: '
      'this mode loads no teacher, and reads its tower from files',
      legal='teacher.init or teacher.vision_init hf:DIR or gguf:FILE; or '
      "student.vision='own'",
    )
  return tower


def load_tower(model: resolved.Model) -> types.PyTree:
  """Loads only the parameters of the student's own tower, from files.

  Args:
    model: the student, which model_checks.check_features has accepted.

  Raises:
    ConfigError: a value in the tower's files is not finite.
  """
  init = model.vision_init or model.init
  field = 'student.vision_init' if model.vision_init else 'student.init'
  source = vision_weights.open_(init, families.of(model.config), field)
  shardings = model.shardings['vision']
  tower = vision_weights.load(
    *(source, shardings, model.param_dtype, False, field)
  )['tower']
  if model.keep_tower_layers:
    tower['layers'] = kept_layers(
      tower['layers'], model.keep_tower_layers, shardings['tower']['layers']
    )
  return tower


def kept_layers(
  layers: types.PyTree, keep: Sequence[int], shardings: types.PyTree
) -> types.PyTree:
  """Returns some layers of a tower.

  Args:
    layers: parameters [layers, ...].
    keep: indices of layers to keep, in increasing order.
    shardings: shardings of the result.
  """
  chosen = np.array(keep)
  choose = lambda tree: jax.tree.map(lambda x: x[chosen], tree)
  return jax.jit(choose, out_shardings=shardings)(layers)
