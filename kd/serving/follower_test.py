"""What answers when a version cannot be loaded, and when it is tried again."""

import os
import threading
import types

import pytest

from kd.config import base
from kd.core import errors
from kd.serving import alarm_bell
from kd.serving import follower as follower_lib
from kd.serving import metrics as metrics_lib
from kd.versions import changes
from kd.versions import version_cases


def test_a_version_that_could_not_be_loaded_is_tried_again(monkeypatch):
  now, tries, said = [1000.0], [], []
  monkeypatch.setattr(follower_lib.time, 'monotonic', lambda: now[0])
  # Without a registry and models.
  follower = follower_lib.Follower.__new__(follower_lib.Follower)
  follower._failed, follower._releases = {}, {}
  follower._ended = threading.Event()
  follower._bell = alarm_bell.AlarmBell('', 'tiny', said.append)
  follower._warm_up = lambda release: None

  def load(state, version):
    del state
    tries.append(now[0])
    if len(tries) < 3:
      raise MemoryError('1 GiB')  # Of a kind that kd does not raise.
    return version

  follower._loaded = load
  while not follower._release(None, 'v2'):
    now[0] += 10
  assert tries == [1000.0, 1060.0, 1180.0]
  text = 'v2 is not switched to: MemoryError: 1 GiB'
  assert said == [f'alarm: {text}', text]
  assert follower._release(None, 'v2') == 'v2' and len(tries) == 3


def test_a_server_starts_with_the_version_before_one_that_is_damaged(tmp_path):
  config, said = base.get_config(), []
  registry = str(tmp_path / 'registry')
  report = version_cases.report(tmp_path, 'ship')
  for number in (1, 2):
    model = version_cases.export(tmp_path / f'm{number}', scale=float(number))
    changes.add(registry, model, report, print)
    stage = 'production'
    changes.promote(registry, config.registry, f'v{number}', stage, print)

  def start():
    return follower_lib.Follower(
      *(registry, 'tiny', config),
      lambda name, place: types.SimpleNamespace(name=name, place=place),
      alarm_bell.AlarmBell('', 'tiny', said.append),
      metrics_lib.Metrics(),
    )

  def production():
    return start().router.stages.production.model.name

  assert production() == 'tiny@v2' and not said
  folder = os.path.join(registry, 'versions')
  os.unlink(os.path.join(folder, 'v2', 'config.json'))
  follower = start()
  assert follower.router.stages.production.model.name == 'tiny@v1'
  assert 'v1 answers instead of v2' in said[-1] and 'is missing' in said[-1]
  # It is not tried at once, and the other one stays.
  follower._update()
  assert follower.router.stages.production.version == 'v1'
  os.unlink(os.path.join(folder, 'v1', 'config.json'))
  with pytest.raises(errors.ConfigError, match='v2.*is missing'):
    start()
