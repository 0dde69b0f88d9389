"""Tests deadlines of accepted requests in a simulated server."""

import collections

import numpy as np

from kd.serving import admission

_ROWS, _SLICE_S, _PREFILL_S = 32, 0.06, 0.004
_TIMEOUT_S, _DURATION_S = 1.0, 90.0


def _simulated(load, seed):
  """Serves Poisson arrivals; returns the waits of accepted ones, and the rest.

  Rows of a batch become free at the ends of slices, when prompts are prefilled
  sequentially; answers take 1 to 8 slices.
  """
  rng = np.random.default_rng(seed)
  capacity = _ROWS / (4.5 * (_SLICE_S + 7 * _PREFILL_S))
  gaps = rng.exponential(1 / (load * capacity), int(2 * load * capacity * 90))
  coming = collections.deque(t for t in np.cumsum(gaps) if t < _DURATION_S)
  sent = len(coming)
  estimate, queue = admission.Estimate(), collections.deque()
  running, started, waits, refused = [], [], [], 0
  now = last_left = 0.0
  while coming or queue:
    if not (queue or running):
      now = max(now, coming[0])
    while coming and coming[0] <= now:
      came = coming.popleft()
      mean_s = estimate.mean_s(len(queue))
      if (queue or running) and estimate.latest_s(mean_s) > _TIMEOUT_S:
        refused += 1
      else:
        queue.append((came, mean_s))
    for late in [x for x in queue if now - x[0] > _TIMEOUT_S]:
      queue.remove(late)
      estimate.waited(late[1], _TIMEOUT_S, _TIMEOUT_S)
      waits.append(np.inf)
    while queue and len(running) < _ROWS:
      came, mean_s = queue.popleft()
      estimate.left(now - max(last_left, came))
      last_left = now
      started.append((came, mean_s, now))
      running.append(rng.integers(1, 9))
      now += _PREFILL_S
    now += _SLICE_S
    running = [x - 1 for x in running if x > 1]
    for came, mean_s, left in started:
      estimate.first_token(now - left)
      waits.append(now - came)
      estimate.waited(mean_s, min(waits[-1], _TIMEOUT_S), _TIMEOUT_S)
    started = []
  assert refused + len(waits) == sent
  return np.asarray(waits), refused / sent


def test_accepted_requests_meet_their_deadline():
  for seed in range(2):
    waits, refused = _simulated(2.0, seed)
    assert np.quantile(waits, 0.95) <= _TIMEOUT_S
    assert refused < 0.6  # Half of them cannot be served.
    waits, refused = _simulated(0.8, seed)
    assert np.quantile(waits, 0.95) <= _TIMEOUT_S
    assert refused < 0.01
