"""Values of a config that are legal or not, whatever its devices."""

from typing import Any

import ml_collections

from configs import base
from kd.core import config as config_lib
from kd.core import errors
from kd.input_pipeline import templates

_POSITIVE = (
  'steps',
  'data.batch_size',
  'data.length',
  'data.read.attempts',
  'data.read.timeout_s',
  'nonfinite_limit',
  'checkpoint.every',
  'checkpoint.keep',
  'log.every',
  'evaluation.batch_size',
  'evaluation.max_new_tokens',
  'objective.chunk_tokens',
  'optimizer.micro_batches',
)
_CHOICES = {
  'nonfinite': ('stop', 'skip'),
  'teacher.source': ('live', 'none'),
  'export.dtype': ('bfloat16', 'float32'),
  'export.checkpoint': ('last', 'best'),
  'data.template': templates.NAMES,
}


def at(config: Any, path: str) -> Any:
  """The field that a path such as 'data.length' names."""
  for key in path.split('.'):
    config = config[key]
  return config


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a value that is illegal whatever else the config says.

  Raises:
    ConfigError: names the first one.
  """
  for path in _POSITIVE:
    if at(config, path) <= 0:
      raise errors.ConfigError(
        path, f'found {at(config, path)}', legal='above 0'
      )
  for path, legal in _CHOICES.items():
    if at(config, path) not in legal:
      raise errors.unknown(path, 'value', at(config, path), legal)
  if config.evaluation.every < 0:
    raise errors.ConfigError(
      'evaluation.every',
      f'found {config.evaluation.every}',
      legal='0 or more',
    )
  if config.data.read.wait_s < 0:
    raise errors.ConfigError(
      'data.read.wait_s',
      f'found {config.data.read.wait_s}',
      legal='0 or more',
    )
  if config.data.examples == 0 or config.data.examples < -1:
    raise errors.ConfigError(
      'data.examples',
      f'found {config.data.examples}',
      legal='-1 (all), or above 0',
    )


def check_open_parts(config: ml_collections.ConfigDict) -> None:
  """Refuses fields of parts that configs may replace as a whole.

  Raises:
    ConfigError: names the first one that is wrong.
  """
  likes = {'adamw': base.adamw, 'adafactor': base.adafactor}
  like = likes.get(config.optimizer.get('name', None))
  if like:
    spec = config.optimizer
    config_lib.check_argument_types(spec, like(spec.lr), 'optimizer')
  numbers = dict(peak=0.0, final=0.0, warmup_steps=0)
  config_lib.check_argument_types(config.optimizer.lr, numbers, 'optimizer.lr')
  for name, entry in config.evaluation.sets.items():
    path = f'evaluation.sets.{name}.'
    config_lib.check_fields(entry, base.evaluation_set(), path)
    for key in ('examples', 'answers'):
      if entry[key] < -1:
        raise errors.ConfigError(
          path + key, f'found {entry[key]}', legal='-1 (all), 0 or more'
        )
