"""Loads the parameters of students and teachers onto the mesh."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp

from kd.checkpoints import weights
from kd.core import paths
from kd.core import types
from kd.models import families
from kd.models import family
from kd.models import lora
from kd.partitioning import rules
from kd.pruning import scores as scores_lib
from kd.pruning import selection as selection_lib
from kd.pruning import slicing
from kd.quantization import quantized_model
from kd.quantization import rounding_ties
from kd.quantization import running_ranges
from kd.run import conversions
from kd.run import representations
from kd.run import resolved
from kd.run import saved_params
from kd.run import towers
from kd.run import workdirs
from kd.teachers import param_digest


def _of_workdir(folder: str, model: resolved.Model, path: str) -> types.PyTree:
  """Reads the parameters that another run trained, as plain parameters.

  Args:
    folder: workdir of the other run.
    model: the plain model with all its layers.
    path: the config path that names the workdir, for messages.

  Raises:
    ConfigError: as for restore.
  """
  config = workdirs.recorded_config(folder)
  if config is None:
    return saved_params.restore(folder, model, 'last', path)
  student = config.student.to_dict()
  module = representations.student(model.module, student, 'student')
  trained = _whole(model, module)
  return plain(trained, saved_params.restore(folder, trained, 'last', path))


def plain(
  model: resolved.Model, params: types.PyTree, keep: bool = False
) -> types.PyTree:
  """Returns the parameters of the plain model with the same outputs.

  They are computed one by one, to avoid two copies of the whole model.

  Args:
    model: the model.
    params: its parameters, on its devices; deleted unless the model is plain.
    keep: whether to keep `params` instead of deleting them.
  """
  if model.module.core is model.module:
    return params
  shardings = core_of(model).shardings
  return conversions.plain(model.module, params, shardings, keep)


def core_of(model: resolved.Model) -> resolved.Model:
  """Returns the model without adapters and quantization."""
  return with_module(model, model.module.core)


def with_module(model: resolved.Model, module: family.Model) -> resolved.Model:
  """Returns the model with another module on the same mesh."""
  return dataclasses.replace(
    model, module=module, shardings=_shardings(model, module)
  )


def _whole(model, module):
  """Returns the model with another module, keeping all layers."""
  model = with_module(model, module)
  return dataclasses.replace(model, keep_layers=(), prune=None)


def _shardings(model, module):
  """Returns the shardings of a module's parameters on the model's mesh."""
  return rules.param_shardings(
    model.mesh, module.logical_axes(), module.abstract_params(), 'student'
  )


def _warn_of_other_weights(scores, params):
  """Warns if the scores were measured on other parameters."""
  measured = scores.facts.get(scores_lib.WEIGHTS)
  if measured != param_digest.of(params):
    logging.getLogger(__name__).info(
      'warning: the scores of student.prune.scores were measured on other '
      'weights than student.init: %s',
      'not measured by --mode=prune' if measured is None else measured,
    )


def pruned(
  model: resolved.Model, params: types.PyTree, scores: scores_lib.Scores
) -> types.PyTree:
  """Returns the parameters that a pruned model keeps, on its devices.

  Args:
    model: the pruned model.
    params: parameters of the model in `init`, with all layers.
    scores: importance scores of that model.
  """
  selection = selection_lib.select(model.prune, scores, model.keep_layers)
  return slicing.prune(
    params, _all_layers(model), model.config, selection, model.shardings
  )


def _all_layers(model):
  """Returns the sizes of `init`, but with the model's own tower."""
  if model.config.vision == model.source.vision:
    return model.source  # Families without towers have no such field.
  return dataclasses.replace(model.source, vision=model.config.vision)


def _with_all_layers(model):
  """Returns the model in `init` with all its layers.

  The tower has only the layers that the model keeps.
  """
  like, sizes = model.module, _all_layers(model)
  module = families.of(sizes).build(sizes, like.dtype, like.remat)
  return _whole(model, module)


def load(
  model: resolved.Model,
  seed: int,
  path: str,
  teacher_params: types.PyTree | None,
) -> types.PyTree:
  """Loads the parameters that `init` names onto their devices.

  Args:
    model: the model.
    seed: seed of random parameters.
    path: config path of `init`, for messages.
    teacher_params: parameters of the teacher, for init 'teacher'.

  Raises:
    ConfigError: a tensor of the source is missing or has another shape, or the
      pruning scores belong to another model.
  """
  if isinstance(model.module, quantized_model.FakeQuantizedModel):
    # It has the same parameters as the model that it wraps.
    inner = dataclasses.replace(model, module=model.module.inner)
    params = load(inner, seed, path, teacher_params)
    return _without_ties(model, params, seed, path)
  if isinstance(model.module, running_ranges.RunningRangesModel):
    return _with_new_ranges(model, seed, path, teacher_params)
  if isinstance(model.module, lora.LoraModel):
    return _with_new_adapters(model, seed, path, teacher_params)
  if isinstance(model.module, quantized_model.StoredModel):
    return _with_few_bits(model, seed, path, teacher_params)
  if model.prune is not None:
    whole = load(_with_all_layers(model), seed, path, teacher_params)
    scores = scores_lib.load(model.prune, model.source)
    _warn_of_other_weights(scores, whole)
    return pruned(model, whole, scores)
  if model.keep_tower_layers:
    return _with_kept_tower(model, seed, path, teacher_params)
  if model.vision_init:
    return _with_other_tower(model, seed, path, teacher_params)
  kind, _, place = model.init.partition(':')
  if kind == 'random':
    init = jax.jit(model.module.init_params, out_shardings=model.shardings)
    return init(jax.random.key(seed))
  if kind == 'workdir' and not model.keep_layers:
    params = _of_workdir(paths.expand(place), model, path)
    return conversions.convert_each(
      params, lambda _, x: x.astype(model.param_dtype)
    )
  if kind in ('teacher', 'workdir'):
    source = teacher_params
    if kind == 'workdir':
      source = _of_workdir(paths.expand(place), _with_all_layers(model), path)
    else:
      # Moves them if the teacher has its own devices or mesh, and leaves out
      # its vision tower if the student is text-only.
      shardings = _with_all_layers(model).shardings
      source = {key: source[key] for key in shardings}
      source = jax.device_put(source, shardings)
    # Copies them, since each step donates the student's buffers.
    return weights.layers_from(
      source, model.source, model.keep_layers, model.shardings
    )
  return weights.load(
    model.init,
    model.module,
    model.shardings,
    model.keep_layers,
    model.param_dtype,
    path,
  )


def _with_kept_tower(model, seed, path, teacher_params):
  """Loads parameters with the kept layers of the vision tower."""
  config = dataclasses.replace(model.config, vision=model.source.vision)
  whole = dataclasses.replace(
    with_module(model, model.module.clone(config=config)), keep_tower_layers=()
  )
  params = load(whole, seed, path, teacher_params)
  vision, shardings = params['vision'], model.shardings['vision']
  layers = towers.kept_layers(
    vision['tower']['layers'],
    model.keep_tower_layers,
    shardings['tower']['layers'],
  )
  tower = vision['tower'] | {'layers': layers}
  return params | {'vision': vision | {'tower': tower}}


def _with_other_tower(model, seed, path, teacher_params):
  """Loads parameters with the vision tower that `vision_init` names."""
  own = dataclasses.replace(model, vision_init='')
  if not towers.init_has_projector(model, path, teacher_params):
    module = model.module.clone(config=model.config.without_vision)
    source = model.source.without_vision
    own = with_module(dataclasses.replace(own, source=source), module)
  params = load(own, seed, path, teacher_params)
  vision = towers.load(model, params, seed, path, teacher_params)
  return params | {'vision': vision}


def _without_ties(model, params, seed, path):
  """Adds dither, or warns if many weights are halfway between two codes."""
  module, log = model.module, logging.getLogger(__name__)
  if module.inner is not module.core:  # Merged weights are off the grid.
    return params
  if model.dither:
    dithered = functools.partial(
      rounding_ties.dithered, module, steps=model.dither
    )
    add = jax.jit(dithered, out_shardings=model.shardings, donate_argnums=0)
    return add(params, jax.random.key(seed))
  share = jax.jit(functools.partial(rounding_ties.share, module))(params)
  if share > rounding_ties.TIE_WARNING_SHARE:
    log.info(
      'warning: %s: %.0f%% of the rounded weights lie halfway between two '
      'codes, as in weights that were already rounded: the first update moves '
      'each by a whole code; student.quantize.dither=0.25 avoids that',
      *(path, 100 * share),
    )
  return params


def _with_new_ranges(model, seed, path, teacher_params):
  """Loads parameters and adds initial activation ranges."""
  inner = with_module(model, model.module.inner)
  zeros = jax.jit(
    jnp.zeros, static_argnums=0, out_shardings=rules.replicated(model.mesh)
  )
  params = load(inner, seed, path, teacher_params)
  return model.module.with_ranges(params, zeros)


def _with_new_adapters(model, seed, path, teacher_params):
  """Loads the frozen parameters and adds initial adapters."""
  module = model.module
  inner = dataclasses.replace(
    model,
    module=module.inner,
    shardings=module.base_params(model.shardings),
  )
  base = load(inner, seed, path, teacher_params)
  make = jax.jit(
    lambda base, key: module.with_base(base, module.init_adapters(key)),
    out_shardings=model.shardings,
    donate_argnums=0,
  )
  return make(base, jax.random.key(seed))


def _with_few_bits(model, seed, path, teacher_params):
  """Loads parameters and quantizes them with the schemes of a StoredModel."""
  module, shardings = model.module, model.shardings
  plain_shardings = _shardings(model, module.inner)
  from_file = model.init.partition(':')[0] in weights.PREFIXES
  is_changed = model.prune or model.vision_init or model.keep_tower_layers
  if from_file and not is_changed:
    # One parameter at a time, since the whole model in float32 may not fit.
    return weights.load(
      *(model.init, module.inner, plain_shardings, model.keep_layers),
      *('float32', path, conversions.quantizer(module, shardings)),
    )
  inner = dataclasses.replace(
    model, module=module.inner, shardings=plain_shardings
  )
  params = load(inner, seed, path, teacher_params)
  return conversions.stored(module, params, shardings)
