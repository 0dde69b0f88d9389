"""Tests the cost of stages against sums over a table of ticks."""

import pytest

from kd.planning.cost import stages


def _table(count, micro_batches):
  """Returns for each tick and stage whether it has a micro-batch."""
  starts = range(count + micro_batches - 1 + count)
  table = [[0 <= t - s < micro_batches for s in range(count)] for t in starts]
  return [tick for tick in table if any(tick)]


@pytest.mark.parametrize('count, micro_batches', [(2, 4), (2, 8), (4, 4)])
def test_ticks_bubble_and_gathers_equal_a_simulated_schedule(
  count, micro_batches
):
  busy = _table(count, micro_batches)
  found = stages.Stages(count, micro_batches, 1.0)
  assert found.ticks == len(busy)
  waits = [not b for tick in busy for b in tick]
  assert found.bubble == pytest.approx(sum(waits) / len(waits))
  # A device without stages computes all layers of all rows once.
  each = 1 / (count * micro_batches)
  assert found.repeated == pytest.approx(len(busy) * each * count)
  assert found.gathers == pytest.approx(len(busy) / count)


def test_stages_receive_a_micro_batch_at_each_tick():
  # 96 tokens on each of 2 x 2 devices: a part is a quarter of 192.
  two = stages.Stages(2, 4, 1.0)
  assert two.at_a_time(96) == 48
  assert two.sent(96, width=10, itemsize=2) == 5 * 48 * 10 * 2
  # An inner stage receives from both sides.
  four = stages.Stages(4, 4, 1.0)
  assert four.sent(96, width=10, itemsize=2) == 2 * 7 * 96 * 10 * 2


def test_without_stages_nothing_is_added():
  one = stages.Stages(1, 1, 1.0)
  assert (one.bubble, one.repeated, one.gathers) == (0, 1, 1)
  assert one.at_a_time(96) == 96 and one.sent(96, 10, 2) == 0
