"""The config with every field at its default, and builders of its parts.

A config starts from get_config() and changes what it needs:

  from kd.config import base

  def get_config(arg=''):
    c = base.get_config()
    c.student.variant = '1b'
    c.losses = dict(kl=base.term('forward_kl', weight=1.0, temperature=2.0))
    return c

docs/config.md lists every field with its legal values. Any field can be changed
on the command line: --config.optimizer.lr.peak=3e-4.
"""

import ml_collections

from kd.config import check
from kd.config import schema
from kd.config.fields import benchmark
from kd.config.fields import board
from kd.config.fields import data
from kd.config.fields import deploy
from kd.config.fields import losses
from kd.config.fields import models
from kd.config.fields import outputs
from kd.config.fields import reasoning
from kd.config.fields import sampling
from kd.config.fields import serve
from kd.config.fields import training
from kd.core import plugins as plugins_lib

ROOT = schema.Section(
  'A run.',
  {
    **training.TOP,
    'student': models.STUDENT,
    'teacher': models.TEACHER,
    'data': data.DATA,
    'cache': data.CACHE,
    'rollout': sampling.ROLLOUT,
    'losses': losses.LOSSES,
    'objective': losses.OBJECTIVE,
    'optimizer': training.OPTIMIZER,
    'ema': training.EMA,
    'mesh': training.MESH,
    'processes': training.PROCESSES,
    'checkpoint': training.CHECKPOINT,
    'evaluation': outputs.EVALUATION,
    'benchmark': benchmark.BENCHMARK,
    'log': training.LOG,
    'profile': training.PROFILE,
    'generate': sampling.GENERATE,
    'reasoning': reasoning.REASONING,
    'search': reasoning.SEARCH,
    'export': outputs.EXPORT,
    'plan': outputs.PLAN,
    'registry': deploy.REGISTRY,
    'board': board.BOARD,
    'serve': serve.SERVE,
    'follow': deploy.FOLLOW,
    'alarms': deploy.ALARMS,
    'deploy': deploy.DEPLOY,
  },
)

Part = ml_collections.ConfigDict


def get_config() -> Part:
  """Returns the config with every field at its default."""
  config = schema.defaults(ROOT)
  config.optimizer = adamw(
    schedule('warmup_cosine', peak=1e-4, warmup_steps=100, final=1e-5)
  )
  return config.lock()


def term(name: str, weight=1.0, **changes) -> Part:
  """Returns a loss term; its weight is a number or a schedule."""
  return schema.option(losses.TERM, name, weight=weight, **changes)


def schedule(name: str, **arguments) -> Part:
  """Returns a schedule: a number that depends on the step."""
  return schema.option(schema.SCHEDULES, name, **arguments)


def adamw(lr, **changes) -> Part:
  """Returns AdamW with the usual settings for language models."""
  return schema.option(training.OPTIMIZER, 'adamw', lr=lr, **changes)


def adafactor(lr, **changes) -> Part:
  """Returns Adafactor with the settings of T5."""
  return schema.option(training.OPTIMIZER, 'adafactor', lr=lr, **changes)


def lion(lr, **changes) -> Part:
  """Returns Lion with its paper's settings for language models."""
  return schema.option(training.OPTIMIZER, 'lion', lr=lr, **changes)


def muon(lr, **changes) -> Part:
  """Returns Muon, with AdamW for everything but the matrices of layers."""
  return schema.option(training.OPTIMIZER, 'muon', lr=lr, **changes)


def sgd(lr, **changes) -> Part:
  """Returns stochastic gradient descent with momentum."""
  return schema.option(training.OPTIMIZER, 'sgd', lr=lr, **changes)


def parameter_group(match: str, **changes) -> Part:
  """Returns a value of optimizer.groups.<name>; the rate may be a schedule."""
  return _section(training.GROUP, {'match': match, **changes})


def cache_method(name: str, **changes) -> Part:
  """Returns a value of `cache.method`."""
  return schema.option(data.CACHE_METHOD, name, **changes)


def _section(section, changes):
  return schema.part({**schema.defaults(section), **changes})


def evaluation_set(**changes) -> Part:
  """Returns a held-out set: a value of evaluation.sets.<name>."""
  return _section(outputs.EVALUATION_SET, changes)


def positions(rule: str, **changes) -> Part:
  """Returns a value of objective.positions; the fraction may be a schedule."""
  return _section(losses.POSITIONS, {'rule': rule, **changes})


def modalities(**changes) -> Part:
  """Returns a value of objective.modalities; weights may be schedules."""
  return _section(losses.MODALITIES, changes)


def rationale(drop_fraction) -> Part:
  """Returns a value of data.rationale; the fraction may be a schedule."""
  return schema.part(dict(drop_fraction=drop_fraction))


def rollout(**changes) -> Part:
  """Returns a value of `rollout`: settings for sampling from the student."""
  return _section(sampling.ROLLOUT, changes)


def other_teacher(**changes) -> Part:
  """Returns a further teacher: a value of teacher.others.<name>."""
  return _section(models.OTHER_TEACHER, changes)


def load_plugins(config: Part) -> None:
  """Imports the modules of `plugins`; call it before reading other fields.

  Raises:
    ConfigError: see plugins.load.
  """
  names = config['plugins'] if 'plugins' in config else ()
  check.check_node(ROOT.children['plugins'], names, plugins_lib.PATH)
  plugins_lib.load(names)


def checked(config: Part) -> Part:
  """Returns the checked config with normalized values.

  Raises:
    ConfigError: a field is illegal; names the first one.
  """
  if schema.is_part(config):
    load_plugins(config)
  check.check(ROOT, config)
  return schema.normalized(ROOT, config).lock()
