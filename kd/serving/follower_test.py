"""Tests retries of versions that could not be loaded."""

import threading

from kd.serving import alarm_bell
from kd.serving import follower as follower_lib


def test_versions_that_failed_to_load_are_retried(monkeypatch):
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
      raise MemoryError('1 GiB')  # An exception that kd does not raise.
    return version

  follower._loaded = load
  while not follower._release(None, 'v2'):
    now[0] += 10
  assert tries == [1000.0, 1060.0, 1180.0]
  text = 'cannot switch to v2: MemoryError: 1 GiB'
  assert said == [f'alarm: {text}', text]
  assert follower._release(None, 'v2') == 'v2' and len(tries) == 3
