"""Small in-process runs of --mode=cache and of training from a cache."""

import contextlib

import pytest

from kd.configs import quickstart
from kd.core import errors
from kd.modes import cache as cache_mode

ROWS, _SHARD_ROWS = 10, 3


def config(folder, cache, **changes):
  """Returns the config of a small run with changed fields."""
  return small(quickstart.get_config(), folder, cache, **changes)


def small(c, folder, cache, **changes):
  """Changes a config to that of a small run and returns it."""
  changes = {
    'steps': 4,
    'data.mixture': 'arithmetic_few',
    'data.examples': ROWS,
    'data.length': 64,
    'data.batch_size': 4,
    'data.seed': 0,
    'data.folder': str(folder / 'rows'),
    'data.read.wait_s': 0.001,
    'optimizer.lr.warmup_steps': 1,
    'evaluation.baseline': False,
    'evaluation.every': 0,
    'log.every': 1,
    'log.tensorboard': False,
    'cache.folder': str(cache),
    'cache.batch_size': 4,
    'cache.shard_rows': _SHARD_ROWS,
    **changes,
  }
  with c.evaluation.sets.unlocked():
    del c.evaluation.sets['held_out']
  for path, value in changes.items():
    parent, _, name = path.rpartition('.')
    part = c
    for key in filter(None, parent.split('.')):
      part = part[key]
    with part.unlocked():
      part[name] = value
  return c


def cached(folder, cache, **changes):
  """Returns the config of a run that trains from a cache."""
  return config(folder, cache, **{'teacher.source': 'cached'}, **changes)


def write(folder, cache, **changes):
  """Runs --mode=cache on a small config with changed fields."""
  cache_mode.main(config(folder, cache, **changes), str(folder / 'report'))


@contextlib.contextmanager
def refused(*words):
  """Expects an error with exit code 2 whose message contains all words."""
  with pytest.raises(errors.KdError) as caught:
    yield
  assert caught.value.exit_code == 2, caught.value
  for word in words:
    assert word in str(caught.value), caught.value
