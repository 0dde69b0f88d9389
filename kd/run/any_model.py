"""Loads a model from a workdir, a folder for transformers or a GGUF file."""

from collections.abc import Callable, Mapping
import os
import tempfile
from typing import Any

from kd.checkpoints import weights
from kd.config import base
from kd.core import buckets
from kd.core import errors
from kd.core import paths
from kd.core import types
from kd.input_pipeline import chat_templates
from kd.run import generation
from kd.run import resolved
from kd.run import session
from kd.run import workdirs

_KINDS = ('workdir', 'hf', 'gguf')
# Fields of a run's config that `load` changes.
_CHANGED = ('student.dtype', 'data.template')


def load(
  path: str,
  dtype: str = 'float32',
  template: str = '',
  quantize: Mapping[str, Any] | None = None,
  warn: Callable[[str], None] = session.say,
) -> tuple[resolved.Run, resolved.Model, types.PyTree]:
  """Loads a model with its tokenizer.

  Args:
    path: see `locate`.
    dtype: data type of the computation, 'float32' or 'bfloat16'.
    template: chat template, a value of data.template; '' for the one that the
      weights were trained with, or 'plain' if that is unknown.
    quantize: values of generate.quantize; None for those of the config.
    warn: function that prints a warning.

  Returns:
    The resolved config, the model and its parameters.

  Raises:
    ConfigError: the weights are missing or damaged.
  """
  kind, where = locate(path)
  if kind == 'workdir':
    value = workdirs.recorded_config(where)
    if value is None:
      raise errors.ConfigError(
        'path', f'{where!r} contains no run', legal='the workdir of a run'
      )
  else:
    value = base.get_config()
    value.student.init = f'{kind}:{where}'
    value.data.template = chat_templates.default(value.student.init)
    if _has_tower(value.student.init):
      value.student.vision = 'own'
  with value.unlocked():
    value.student.dtype = dtype
    if template:
      value.data.template = template
    value.generate.quantize.update(quantize or {})
  with tempfile.TemporaryDirectory() as no_run:
    folder = where if kind == 'workdir' else no_run
    run = session.open_trained(value, folder, warn=warn, also_allowed=_CHANGED)
    model = generation.student(run)
    return run, model, generation.params(run, model, folder)


def _has_tower(init):
  """Returns whether weights have a vision tower, given their config.json."""
  return weights.model_config(init, 'student.init', True).vision is not None


def locate(path: str) -> tuple[str, str]:
  """Returns the kind of weights, 'workdir', 'hf' or 'gguf', and their path.

  Args:
    path: a workdir, a folder for transformers, such as an export, or a GGUF
      file; 'workdir:DIR', 'hf:DIR' or 'gguf:FILE' sets the kind explicitly.

  Raises:
    ConfigError: the path contains no model.
  """
  kind, colon, where = path.partition(':')
  if colon and kind in _KINDS:
    return kind, _refreshed(where)
  path = _refreshed(path)
  if os.path.isfile(path) and path.endswith('.gguf'):
    return 'gguf', path
  if os.path.isfile(os.path.join(path, 'run.json')):
    return 'workdir', path
  if os.path.isfile(os.path.join(path, 'config.json')):
    return 'hf', path
  raise errors.ConfigError(
    'path',
    f'{path!r} contains no model',
    legal="a run's workdir, a folder with config.json and safetensors, a GGUF "
    'file',
  )


def _refreshed(path: str) -> str:
  """Returns the local path; downloads changes of a bucket."""
  path = paths.expand(path)
  buckets.refresh(path)
  return path
