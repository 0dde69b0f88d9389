"""Tests the round-robin order of clients and the order of each client."""

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


def test_few_items_precede_those_of_a_new_client():
  queue = fair_queue.FairQueue()
  for i in range(5):
    queue.put('many', f'm{i}')
  queue.put('few', 'f0')
  for client, ahead in (('new', 2), ('few', 3), ('many', 6)):
    assert queue.ahead(client) == ahead
    queue.put(client, 'last')
    order = [queue.get() for _ in range(len(queue))]
    assert order.index('last') <= ahead
    queue = fair_queue.FairQueue()
    for i in range(5):
      queue.put('many', f'm{i}')
    queue.put('few', 'f0')
  assert (queue.count('new'), queue.clients('new')) == (0, 3)
  assert (queue.count('many'), queue.clients('many')) == (5, 2)


def test_clients_without_items_have_no_turn():
  queue = fair_queue.FairQueue()
  queue.put('a', 'a0')
  queue.put('b', 'b0')
  assert queue.remove('a', 'a0')
  assert list(queue) == ['b0'] and queue.get() == 'b0' and not len(queue)
