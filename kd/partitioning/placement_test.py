"""Tests which meshes give each process the same part of a batch."""

import itertools

import numpy as np

from kd.partitioning import placement


def _part(indices, process, rows, length):
  """Returns a process's places in a batch, one device at a time."""
  data, fsdp, _, sequence, _ = indices.shape
  found = set()
  for d, f, t, s, p in np.ndindex(indices.shape):
    if indices[d, f, t, s, p] == process:
      own = rows // (data * fsdp), length // sequence
      begin = (d * fsdp + f) * own[0], s * own[1]
      found |= {(begin[0] + i, begin[1] + j) for i, j in np.ndindex(own)}
  return found


def test_split_alike_agrees_with_all_devices():
  """All meshes of 8 and of 4 devices, two processes, in order and mixed."""

  def meshes(count):
    for shape in itertools.product((1, 2, 4, 8), repeat=5):
      if np.prod(shape) == count:
        for indices in (np.arange(count) * 2 // count, np.arange(count) % 2):
          yield indices.reshape(shape)

  outcomes = []
  for one, other in itertools.product(meshes(8), meshes(4)):
    found = placement.split_alike(one, other)
    same = all(_part(one, p, 8, 8) == _part(other, p, 8, 8) for p in (0, 1))
    # Alternating processes are not a block of an axis longer than 2.
    assert same or not found
    if all((np.diff(x.ravel()) >= 0).all() for x in (one, other)):
      assert found == same
    outcomes.append(found)
  assert 10 < sum(outcomes) < len(outcomes) - 10


def test_rows_are_apart_unless_two_processes_have_one():
  outcomes = []
  for shape in itertools.product((1, 2, 4, 8), repeat=5):
    if np.prod(shape) == 8:
      for indices in (np.arange(8) // 4, np.arange(8) % 2):
        one = indices.reshape(shape)
        # Rows are divided over pipeline, data and fsdp, in this order.
        batch = np.moveaxis(one, -1, 0).reshape(*one.shape[-1:], *one.shape[:4])
        rows = [set(), set()]
        for p, d, f, t, s in np.ndindex(batch.shape):
          own = (p * batch.shape[1] + d) * batch.shape[2] + f
          rows[batch[p, d, f, t, s]].add(own)
        assert placement.rows_are_apart(one) == rows[0].isdisjoint(rows[1])
        outcomes.append(rows[0].isdisjoint(rows[1]))
  assert {*outcomes} == {True, False}


def test_parts_that_are_not_blocks_are_not_split_alike():
  """Three devices of each process in a mesh of three by two."""
  one = np.arange(6).reshape(3, 2, 1, 1, 1) // 3
  assert not placement.split_alike(one, one)
  data, fsdp = one.reshape(6, 1, 1, 1, 1), one.reshape(1, 6, 1, 1, 1)
  assert placement.split_alike(data, fsdp)
