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
# Fields of a run's config that `load` may change.
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
    template: how messages are written, a value of data.template; '': as the
      weights were trained, else 'plain'.
    quantize: values of generate.quantize; None: as the config has them.
    warn: prints a warning.

  Returns:
    The resolved config, the model and its parameters.

  Raises:
    ConfigError: there are no weights, or they are damaged.
  """
  kind, where = locate(path)
  if kind == 'workdir':
    value = workdirs.recorded_config(where)
    if value is None:
      raise errors.ConfigError(
        'path', f'{where!r} holds no run', legal='the workdir of a run'
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
  """Returns whether weights have a vision tower, from their config.json."""
  return weights.model_config(init, 'student.init', True).vision is not None


def locate(path: str) -> tuple[str, str]:
  """Returns the kind of weights, 'workdir', 'hf' or 'gguf', and where they are.

  Args:
    path: a workdir, a folder for transformers, such as an export, or a GGUF
      file; 'workdir:DIR', 'hf:DIR' or 'gguf:FILE' where it should be said.

  Raises:
    ConfigError: there is no model.
  """
  kind, colon, where = path.partition(':')
  if colon and kind in _KINDS:
    return kind, _as_it_is_now(where)
  path = _as_it_is_now(path)
  if os.path.isfile(path) and path.endswith('.gguf'):
    return 'gguf', path
  if os.path.isfile(os.path.join(path, 'run.json')):
    return 'workdir', path
  if os.path.isfile(os.path.join(path, 'config.json')):
    return 'hf', path
  raise errors.ConfigError(
    'path',
    f'{path!r} holds no model',
    legal="a run's workdir, a folder with config.json and safetensors, a GGUF "
    'file',
  )


def _as_it_is_now(path: str) -> str:
  """Returns the local path; what is in a bucket is downloaded again."""
  path = paths.expand(path)
  buckets.refresh(path)
  return path
