"""Values of a config that are legal or not, whatever its devices."""

from typing import Any

import ml_collections

from configs import base
from kd.core import config as config_lib
from kd.core import errors
from kd.input_pipeline import shortening
from kd.input_pipeline import templates
from kd.train import generate_fields
from kd.train import reason_fields
from kd.train import rollout_fields
from kd.train import search_fields

_POSITIVE = (
  'steps',
  'data.batch_size',
  'data.length',
  'data.read.attempts',
  'data.read.timeout_s',
  'cache.batch_size',
  'cache.shard_rows',
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
  'teacher.source': ('live', 'cached', 'rollout', 'none'),
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
  if config.seed < 0:
    raise errors.ConfigError('seed', f'found {config.seed}', legal='0 or more')
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
  if config.data.seed < -1:
    raise errors.ConfigError(
      'data.seed', f'found {config.data.seed}', legal='-1 (as seed), 0 or more'
    )
  if config.cache.verify < 0:
    raise errors.ConfigError(
      'cache.verify', f'found {config.cache.verify}', legal='0 or more'
    )
  generate_fields.check(config.generate)
  search_fields.check(config.search)
  reason_fields.check(config.reasoning)
  rollout_fields.check(config)
  _check_rationale(config)
  if config.data.examples == 0 or config.data.examples < -1:
    raise errors.ConfigError(
      'data.examples',
      f'found {config.data.examples}',
      legal='-1 (all), or above 0',
    )


def _check_rationale(config):
  share = shortening.build(
    config.data.rationale.to_dict(), 'data.rationale', config.steps
  )
  if share and config.teacher.source == 'cached':
    raise errors.ConfigError(
      'data.rationale.dropped',
      "found more than 0 with teacher.source 'cached', whose targets are of "
      'whole rows',
      legal="0.0, or teacher.source 'live' or 'rollout'",
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
  method = base.cache_method(config.cache.method.get('name', None))
  config_lib.check_argument_types(config.cache.method, method, 'cache.method')
  for name, entry in config.evaluation.sets.items():
    path = f'evaluation.sets.{name}.'
    config_lib.check_fields(entry, base.evaluation_set(), path)
    for key in ('examples', 'answers'):
      if entry[key] < -1:
        raise errors.ConfigError(
          path + key, f'found {entry[key]}', legal='-1 (all), 0 or more'
        )
