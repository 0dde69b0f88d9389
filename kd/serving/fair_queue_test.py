"""Clients take turns, and each keeps its order."""

import pytest

from kd.serving import fair_queue


def test_a_client_with_many_requests_delays_others_by_one_at_a_time():
  queue = fair_queue.FairQueue()
  for i in range(4):
    queue.put('many', f'm{i}')
  queue.put('few', 'f0')
  queue.put('one', 'o0')
  queue.put('few', 'f1')
  assert len(queue) == 7
  assert queue.remove('many', 'm1') and not queue.remove('many', 'm1')
  assert not queue.remove('nobody', 'm2')
  order = [queue.get() for _ in range(len(queue))]
  assert order == ['m0', 'f0', 'o0', 'm2', 'f1', 'm3']
  with pytest.raises(KeyError):
    queue.get()


def test_a_client_whose_last_item_is_removed_has_no_turn():
  queue = fair_queue.FairQueue()
  queue.put('a', 'a0')
  queue.put('b', 'b0')
  assert queue.remove('a', 'a0')
  assert list(queue) == ['b0'] and queue.get() == 'b0' and not len(queue)
