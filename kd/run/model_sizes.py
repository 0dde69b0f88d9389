"""Determines the sizes of the models that a config names."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from kd.checkpoints import vision_weights
from kd.checkpoints import weights
from kd.core import errors
from kd.core import json_files
from kd.core import paths
from kd.losses import terms
from kd.models import config_json
from kd.models import families
from kd.models import family
from kd.pruning import scores
from kd.pruning import selection
from kd.pruning import sizes

KINDS = ('random', 'teacher', 'hf', 'gguf', 'workdir')
RUN_FILE = 'run.json'
NO_VISION = 'none'
TEACHERS_VISION = 'teacher'
VISION = (NO_VISION, 'own')  # Values of `vision`.
STUDENT_VISION = (*VISION, TEACHERS_VISION)


def from_workdir(folder: str, path: str) -> family.Config:
  """Reads the sizes of the student that another run trained.

  Args:
    folder: workdir of the other run.
    path: the config path that names it, for messages.

  Raises:
    ConfigError: the folder contains no run, or its run.json is damaged.
  """
  file = os.path.join(folder, RUN_FILE)
  if not os.path.isfile(file):
    raise errors.ConfigError(
      path, f'{folder!r} contains no {RUN_FILE}', legal='the workdir of a run'
    )
  try:
    student = json_files.read(file).get('student')
    return config_json.from_json(student, f'{file}: student')
  except errors.ConfigError as e:
    raise errors.ConfigError(path, str(e)) from e


def _check_variant(config, variant, path):
  """Raises ConfigError if a variant's sizes differ from the weights'."""
  if not variant:
    return
  named = families.variant(variant, path)
  # Copies of a model may differ in these fields; the file's values are used.
  flexible = {'vocab_size', 'context', 'vision'}
  if named.family != config.family:
    raise errors.ConfigError(
      path,
      f'found {variant!r} of {families.of(named).title}, and the weights are '
      f'of {families.of(config).title}',
      legal="'' for the sizes of the weights",
    )
  different = [
    f'{f.name} {getattr(config, f.name)} (variant: {getattr(named, f.name)})'
    for f in dataclasses.fields(config)
    if f.name not in flexible
    and getattr(config, f.name) != getattr(named, f.name)
  ]
  if different:
    raise errors.ConfigError(
      path,
      f'the weights are not {variant!r}: {", ".join(different)}',
      legal="'' for the sizes of the weights",
    )


def source_config(
  spec: Mapping[str, Any],
  path: str,
  teacher: family.Config | None,
) -> family.Config:
  """Returns the sizes of the model that `init` names, with all layers.

  Args:
    spec: section `student` or `teacher` of the config.
    path: path of the section: 'student', 'teacher', 'teacher.others.<name>'.
    teacher: sizes of the teacher, for a student with init 'teacher'.

  Raises:
    ConfigError: `init` is illegal or names no model.
  """
  kind, _, where = spec['init'].partition(':')
  has_tower = spec['vision'] != NO_VISION
  if kind not in KINDS or (path != 'student' and kind in KINDS[:2]):
    legal = 'hf:DIR, gguf:FILE, workdir:DIR'
    if path == 'student':
      legal = f'random, teacher, {legal}'
    raise errors.ConfigError(
      f'{path}.init',
      f'found {spec["init"]!r}',
      legal=legal,
      nearest=errors.nearest(kind, KINDS),
    )
  if kind == 'random':
    config = families.variant(spec['variant'], f'{path}.variant', has_tower)
    return with_vision(config, spec, path, teacher)
  if kind == 'teacher':
    if teacher is None:
      raise errors.ConfigError(
        f'{path}.init',
        "found 'teacher', and there is no teacher",
        legal="teacher.source 'live' or 'on_policy'",
      )
    config = teacher
  elif kind == 'workdir':
    config = from_workdir(paths.expand(where), f'{path}.init')
    if config.vision and not has_tower:
      raise errors.ConfigError(
        f'{path}.vision',
        f'found {NO_VISION!r}, and the model of {where!r} has a vision tower',
        legal="'own'; or an export of it, which can be read without its tower",
      )
  else:
    config = weights.model_config(spec['init'], f'{path}.init', has_tower)
  own, config = config.vision, with_vision(config, spec, path, teacher)
  if kind == 'workdir' and own != config.vision:
    raise errors.ConfigError(
      f'{path}.vision',
      f'found {spec["vision"]!r}, and {where!r} has no tower of these sizes',
      legal='an export of it as init, which can be read without its tower',
    )
  _check_variant(config, spec['variant'], f'{path}.variant')
  return config


def with_vision(
  config: family.Config,
  spec: Mapping[str, Any],
  path: str,
  teacher: family.Config | None,
) -> family.Config:
  """Returns the sizes with the vision tower of the spec, or without one.

  Args:
    config: sizes of the model, with its own tower if it has one.
    spec: section `student` or `teacher` of the config.
    path: config path of the section.
    teacher: sizes of the teacher, for a student that shares its tower.

  Raises:
    ConfigError: the spec names a tower that does not exist.
  """
  vision, init = spec['vision'], spec['vision_init']
  if init and vision != VISION[1]:
    raise errors.ConfigError(
      f'{path}.vision_init',
      f'found {init!r} with {path}.vision {vision!r}',
      legal=f"'', or {path}.vision {VISION[1]!r}",
    )
  if vision == NO_VISION:
    return config.without_vision
  chosen, tower = families.of(config), config.vision
  whose, legal = 'model', 'a variant or weights with a tower'
  if vision == TEACHERS_VISION:
    tower, whose = teacher and teacher.vision, 'teacher'
    legal = "teacher.source 'live' or 'on_policy' with teacher.vision 'own'"
  elif init and chosen.reads_images:
    tower = vision_weights.open_(init, chosen, f'{path}.vision_init').config
  if tower is None or not chosen.reads_images:
    raise errors.ConfigError(
      f'{path}.vision',
      f'found {vision!r}, and the {whose} has no vision tower',
      legal=f'{NO_VISION!r}, or {legal}',
    )
  return dataclasses.replace(config, vision=tower)


def term_sizes(config: family.Config) -> terms.Sizes:
  """Returns the model sizes that loss terms need."""
  vision = config.vision
  images = {}
  if vision is not None:
    images = dict(
      image_tokens=vision.soft_tokens,
      tower_layers=vision.num_layers,
      tower_width=vision.embed_dim,
    )
  return terms.Sizes(
    layers=config.num_layers,
    width=config.embed_dim,
    heads=config.num_heads,
    kv_heads=config.num_kv_heads,
    head_width=config.head_dim,
    attention_scale=config.attention_scale,
    windows=config.windows,
    **images,
  )


def _kept_tower(spec, source):
  """Returns the sizes of the student's tower; None without one."""
  keep, tower = tuple(spec['keep_tower_layers']), source.vision
  if not keep:
    return tower
  path, vision, init = 'student.keep_tower_layers', spec['vision'], spec['init']
  if vision != VISION[1] or init == 'random' and not spec['vision_init']:
    raise errors.ConfigError(
      path,
      f'found {keep} with student.vision {vision!r} and student.init {init!r}',
      legal="(), or vision 'own' with the weights of a tower in init or "
      'vision_init',
    )
  weights.check_keep_layers(keep, tower.num_layers, path)
  return dataclasses.replace(tower, num_layers=len(keep))


def student_config(
  spec: Mapping[str, Any], source: family.Config
) -> family.Config:
  """Returns the student's sizes: those of its source after pruning.

  Raises:
    ConfigError: keep_layers, keep_tower_layers or prune is illegal.
  """
  tower = _kept_tower(spec, source)
  if tower != source.vision:  # Text-only models have no such field.
    source = dataclasses.replace(source, vision=tower)
  keep, request = tuple(spec['keep_layers']), sizes.request(spec['prune'])
  if (keep or request) and spec['init'] == 'random':
    asked = {'student.keep_layers': keep} if keep else request.sizes
    path, size = next(iter(asked.items()))
    raise errors.ConfigError(
      path,
      f'found {size} with init random',
      legal=f'{"()" if keep else 0} where there are no weights to keep',
    )
  weights.check_keep_layers(keep, source.num_layers, 'student.keep_layers')
  if request is None:
    return source.keep_layers(keep) if keep else source
  sizes.check(request, source)
  layers = keep or range(request.layers or source.num_layers)
  if sizes.kept_kinds(request, source) is None:
    importance = scores.load(request, source).layers
    layers = selection.select_layers(request, source, importance)
  return sizes.pruned(request, source, layers)
