"""Claims: one owner, taken over when it dies on this or another machine."""

import os
import time

from kd.core import machine
from kd.input_pipeline import claims


def test_one_owner_at_a_time(tmp_path):
  with claims.Claims(str(tmp_path)) as first:
    with claims.Claims(str(tmp_path)) as second:
      assert first.take('a') and second.take('b')
      assert not second.take('a') and not first.take('b')
      first.release('a')
      assert second.take('a')
    assert first.take('b')
  assert not os.listdir(tmp_path)


def test_stale_claims_of_other_machines_are_taken_over(tmp_path, monkeypatch):
  monkeypatch.setattr(claims, '_TOUCH_S', 0.05)
  monkeypatch.setattr(claims, 'DEAD_AFTER_S', 0.5)
  theirs, ours = (claims.Claims(str(tmp_path)) for _ in range(2))
  with ours, theirs:
    assert theirs.take('a')
    # Locks do not work across machines.
    monkeypatch.setattr(machine, 'name', lambda: 'another')
    monkeypatch.setattr(claims, '_unlocked', lambda file: True)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
      assert not ours.take('a')
      time.sleep(0.05)
    theirs._ended.set()  # As if it had died.
    while not ours.take('a'):
      assert time.monotonic() < end + 10.0
      time.sleep(0.05)
    assert time.monotonic() > end + 0.3
