"""Loads the vision tower of a model whose other weights come from elsewhere."""

import logging

import jax

from kd.checkpoints import vision_weights
from kd.checkpoints import weights
from kd.core import types
from kd.models import families
from kd.run import model_sizes
from kd.run import resolved


def init_has_projector(
  model: resolved.Model, path: str, teacher_params: types.PyTree | None
) -> bool:
  """Returns whether `init` has a projector that fits the model's tower.

  Args:
    model: has another tower.
    path: the config path of `init`, for messages.
    teacher_params: the teacher's, for init 'teacher'.
  """
  kind, _, _ = model.init.partition(':')
  if kind in weights.PREFIXES:
    there = weights.model_config(model.init, path, True).vision
    return there == model.config.vision
  if kind == 'teacher':
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    own = model.module.abstract_params()['vision']
    return shapes(teacher_params.get('vision')) == shapes(own)
  # Of another run the tower has been compared before; random ones do not count.
  return kind == 'workdir'


def load(
  model: resolved.Model,
  params: types.PyTree,
  seed: int,
  path: str,
  teacher_params: types.PyTree | None,
) -> types.PyTree:
  """Returns the parameters of the tower and of the projector.

  The projector is that of `init` if it has one, else that of the tower if it
  maps to the model's width, else random.

  Args:
    model: has `vision_init`.
    params: its other parameters, possibly with a vision tower.
    seed: of a random projector.
    path: the config path of `init`, for messages.
    teacher_params: the teacher's, for a shared tower.

  Raises:
    ConfigError: a value in the tower's files is not finite.
  """
  own = params.get('vision')
  width, shardings = model.config.embed_dim, model.shardings['vision']
  if model.vision_init == model_sizes.TEACHERS_VISION:
    source = teacher_params['vision']
    fits = source['projector']['kernel'].shape[1] == width
    names = ['tower', 'projector'] if fits and not own else ['tower']
    loaded = vision_weights.copied(
      {name: source[name] for name in names},
      {name: shardings[name] for name in names},
      model.param_dtype,
    )
  else:
    field = path.removesuffix('init') + 'vision_init'
    source = vision_weights.open_(
      model.vision_init, families.of(model.config), field
    )
    fits = source.text_dim == width
    loaded = vision_weights.load(
      *(source, shardings, model.param_dtype),
      *(fits, field),
    )
  if 'projector' in loaded:
    return loaded
  if own:
    return loaded | {'projector': own['projector']}
  if not fits:
    logging.getLogger(__name__).info(
      "vision: the projector of %s maps to another width than the model's %d: "
      'a random one is trained',
      *(model.vision_init, width),
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


def load_tower(model: resolved.Model) -> types.PyTree:
  """Loads the parameters of the student's own tower alone, from files.

  Args:
    model: the student; model_checks.check_features has accepted it.

  Raises:
    ConfigError: a value in the tower's files is not finite.
  """
  init = model.vision_init or model.init
  field = 'student.vision_init' if model.vision_init else 'student.init'
  source = vision_weights.open_(init, families.of(model.config), field)
  return vision_weights.load(
    *(source, model.shardings['vision'], model.param_dtype, False, field)
  )['tower']
