"""Finds the sizes of the models that a config names."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from kd.checkpoints import sizes
from kd.checkpoints import weights
from kd.config import variants
from kd.core import errors
from kd.core import json_files
from kd.core import paths
from kd.losses import terms
from kd.models import gemma3_config

KINDS = ('random', 'teacher', 'hf', 'gguf', 'workdir')
RUN_FILE = 'run.json'

_KINDS = {gemma3_config.LOCAL, gemma3_config.GLOBAL}


def from_workdir(folder: str, path: str) -> gemma3_config.Gemma3Config:
  """Reads the sizes of the student that another run trained.

  Args:
    folder: the run's workdir.
    path: the config path that names it, for messages.

  Raises:
    ConfigError: the folder holds no run, or its run.json is damaged.
  """
  file = os.path.join(folder, RUN_FILE)
  if not os.path.isfile(file):
    raise errors.ConfigError(
      path, f'{folder!r} holds no {RUN_FILE}', legal='the workdir of a run'
    )
  try:
    return _from_json(json_files.read(file).get('student'), f'{file}: student')
  except errors.ConfigError as e:
    raise errors.ConfigError(path, str(e)) from e


def _from_json(value: Any, where: str) -> gemma3_config.Gemma3Config:
  """Returns the sizes that a run.json holds; errors name the field."""
  fields = {f.name: f for f in dataclasses.fields(gemma3_config.Gemma3Config)}
  if not isinstance(value, dict) or set(value) != set(fields):
    raise errors.ConfigError(
      where,
      f'found {json_files.short(value)}',
      legal=f'an object with {", ".join(fields)}',
    )
  numbers = {
    name: sizes.number(value[name], f'{where}.{name}', field.type)
    for name, field in fields.items()
    if name != 'layer_kinds'
  }
  sizes.check_kv_heads(
    numbers['num_heads'],
    numbers['num_kv_heads'],
    f'{where}.num_kv_heads',
    'num_heads',
  )
  kinds = value['layer_kinds']
  if (
    not isinstance(kinds, list)
    or not 0 < len(kinds) <= sizes.MOST_LAYERS
    or not set(map(str, kinds)) <= _KINDS
  ):
    raise errors.ConfigError(
      f'{where}.layer_kinds',
      f'found {json_files.short(kinds)}',
      legal=f'1 to {sizes.MOST_LAYERS} of {", ".join(sorted(_KINDS))}',
    )
  return gemma3_config.Gemma3Config(**numbers, layer_kinds=tuple(kinds))


def _check_variant(config, variant, path):
  """Raises ConfigError if a variant's sizes are not those of the weights."""
  if not variant:
    return
  named = gemma3_config.from_variant(variant, variants.VARIANTS, path)
  # The two constants below are the file's to say: copies of one model differ.
  flexible = {'vocab_size', 'context'}
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
      legal="'' to take what the weights say",
    )


def source_config(
  spec: Mapping[str, Any],
  path: str,
  teacher: gemma3_config.Gemma3Config | None,
) -> gemma3_config.Gemma3Config:
  """Sizes of the model that `init` names, before layers are dropped.

  Args:
    spec: the config's `student` or `teacher`.
    path: the spec's config path: 'student', 'teacher', 'teacher.others.<name>'.
    teacher: the teacher's sizes, for a student with init 'teacher'.

  Raises:
    ConfigError: `init` is not legal, or nothing is there.
  """
  kind, _, where = spec['init'].partition(':')
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
    return gemma3_config.from_variant(
      spec['variant'], variants.VARIANTS, f'{path}.variant'
    )
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
  else:
    config = weights.model_config(spec['init'], f'{path}.init')
  _check_variant(config, spec['variant'], f'{path}.variant')
  return config


def term_sizes(config: gemma3_config.Gemma3Config) -> terms.Sizes:
  """Returns the sizes of a model that loss terms need."""
  return terms.Sizes(
    layers=config.num_layers,
    width=config.embed_dim,
    heads=config.num_heads,
    kv_heads=config.num_kv_heads,
    head_width=config.head_dim,
    attention_scale=config.query_scale**-0.5,
    windows=tuple(
      config.window if kind == gemma3_config.LOCAL else None
      for kind in config.layer_kinds
    ),
  )


def student_config(
  spec: Mapping[str, Any], source: gemma3_config.Gemma3Config
) -> gemma3_config.Gemma3Config:
  """Returns the student's sizes: its source's, with the layers it keeps.

  Raises:
    ConfigError: keep_layers is not legal.
  """
  if not spec['keep_layers']:
    return source
  path = 'student.keep_layers'
  if spec['init'] == 'random':
    raise errors.ConfigError(
      path,
      f'found {tuple(spec["keep_layers"])} with init random',
      legal='() where there are no weights to keep',
    )
  weights.check_keep_layers(spec['keep_layers'], source.num_layers, path)
  return source.keep_layers(spec['keep_layers'])
