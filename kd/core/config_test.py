"""Differences between configs."""

from kd.core import config as config_lib


def test_differences_are_reported_as_leaves():
  old = dict(steps=1, part=dict(size=2), losses=dict(kl=dict(weight=1.0)))
  new = dict(
    steps=1,
    part=dict(size=3),
    losses=dict(kl=dict(weight=1.0), ce=dict(weight=0.5)),
  )
  assert list(config_lib.differences(old, new)) == [
    ('losses.ce.weight', 'absent', 0.5),
    ('part.size', 2, 3),
  ]
