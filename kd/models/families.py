"""The registry of model families, by name, variant and kind of file.

A family is imported on first use, so that the page of the config, which needs
only the names of variants, imports no model.
"""

from collections.abc import Mapping
import functools
import importlib
import typing
from typing import Any

from kd.core import errors
from kd.core import registry

if typing.TYPE_CHECKING:
  from kd.models import chat_turns
  from kd.models import family

# Folders of this package; a new family is added here and nowhere else.
NAMES = ('gemma3', 'qwen3')
# The kind of the registry of chat templates, kd.input_pipeline.templates.
CHAT_TEMPLATE = 'chat template'
# The family of run.json files from before there were several families.
FIRST = 'gemma3'


@functools.cache
def get(name: str) -> 'family.Family':
  """Returns a family by its name."""
  return importlib.import_module(f'kd.models.{name}.family').FAMILY


def of(config: 'family.Config') -> 'family.Family':
  """Returns the family that a model belongs to."""
  return get(config.family)


def variants() -> dict[str, tuple[str, Mapping[str, Any]]]:
  """Returns (family, fields) by the variant's name."""
  named = {}
  for name in NAMES:
    module = importlib.import_module(f'kd.models.{name}.variants')
    for variant, fields in module.VARIANTS.items():
      if variant in named:
        raise ValueError(f'{name} and {named[variant][0]} have {variant!r}')
      named[variant] = name, fields
  return named


@functools.cache
def chat_templates() -> dict[str, 'chat_turns.Template']:
  """Returns the families' chat templates by name."""
  templates = {}
  for name in NAMES:
    module = importlib.import_module(f'kd.models.{name}.chat_template')
    templates |= module.TEMPLATES
  return templates


def turn_marks() -> tuple['chat_turns.Marks', ...]:
  """Returns the turn marks of all families' and plugins' templates."""
  templates = list(chat_templates().values())
  known = registry.of(CHAT_TEMPLATE)
  if known:
    templates += [known[name] for name in known.names()]
  marks = (template.marks for template in templates)
  return tuple(dict.fromkeys(filter(None, marks)))


def variant(name: str, path: str, with_vision: bool = False) -> 'family.Config':
  """Returns the sizes of a variant.

  Args:
    name: the variant, e.g. '1b' or 'qwen3_8b'.
    path: the config path of the name, for the message.
    with_vision: whether the model has its vision tower, if there is one.

  Raises:
    ConfigError: there is no such variant.
  """
  named = variants()
  if name not in named:
    raise errors.unknown(path, 'variant', name, list(named))
  family_name, fields = named[name]
  config = get(family_name).variant(fields)
  return config if with_vision else config.without_vision


def model_types() -> dict[str, str]:
  """Returns the family's name by `model_type` of a config.json."""
  return {kind: name for name in NAMES for kind in get(name).hf_model_types}


def by_model_type(model_type: str, path: str) -> 'family.Family':
  """Returns the family of a config.json's model_type.

  Args:
    model_type: the value.
    path: the file and its key, for the message.

  Raises:
    ConfigError: no family has it.
  """
  known = model_types()
  if model_type not in known:
    raise errors.unknown(path, 'model type', model_type, list(known))
  return get(known[model_type])


def gguf_lists() -> tuple[str, ...]:
  """Returns the keys of the lists in GGUF metadata that the families need."""
  return tuple(key for name in NAMES for key in get(name).gguf_lists)


def by_architecture(architecture: Any, path: str) -> 'family.Family':
  """Returns the family of a GGUF file's general.architecture.

  Args:
    architecture: the value, None if the file has none.
    path: the file and its field, for the message.

  Raises:
    ConfigError: no family has it.
  """
  known = {get(name).gguf_architecture: name for name in NAMES}
  if architecture not in known:
    raise errors.ConfigError(
      path, f'found {architecture!r}', legal=', '.join(map(repr, known))
    )
  return get(known[architecture])


def build(
  config: 'family.Config', dtype: str, remat: str, path: str
) -> 'family.Model':
  """Returns a model without its parameters.

  Args:
    config: its sizes.
    dtype: data type of activations, 'float32' or 'bfloat16'.
    remat: a name of transformer.REMAT_POLICIES.
    path: the config path of the model ('student'), for messages.

  Raises:
    ConfigError: dtype or remat is not legal.
  """
  from kd.models import transformer  # Imports flax.

  chosen = transformer.check_build(dtype, remat, path)
  return of(config).build(config, chosen, remat)
