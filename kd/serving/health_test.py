"""Tests when a version is taken out of service."""

from kd.serving import health as health_lib

_LIMITS = health_lib.Limits(
  first_token_s=0.5, error_rate=0.1, window_s=60.0, min_requests=10
)


def _health(*requests):
  now = [0.0]
  health = health_lib.Health(_LIMITS, lambda: now[0])
  for request in requests:
    health.note(*request)
    now[0] += 1
  return health, now


def test_few_failures_count_only_if_the_model_is_at_fault():
  health, _ = _health(*[(504, None)] * 9)
  assert health.fault() == ''
  health.note(504, None)
  assert health.fault() == '10 of 10 requests failed or came too late'
  health, _ = _health((500, 0.1))
  assert health.fault() == ''
  health, _ = _health((500, 0.1, 'its logits are NaN'), (200, 0.1))
  assert health.fault() == 'its logits are NaN'
  health.clear()
  assert health.fault() == ''


def test_error_rates_above_the_limit_are_a_fault():
  fine, bad = (200, 0.1), (504, None)
  health, now = _health(*[fine] * 18, *[bad] * 2)
  assert health.fault() == ''  # 10 %.
  health.note(*bad)
  assert health.fault().startswith('3 of 21')
  # Errors and disconnects of clients do not count against the version.
  health, _ = _health(*[(400, None), (429, None), (499, 0.1)] * 10)
  assert health.fault() == ''
  health, now = _health(*[bad] * 20)
  now[0] = 100.0
  assert health.fault() == ''


def test_latency_is_the_95th_percentile():
  health, _ = _health(*[(200, 0.1)] * 97, *[(200, 9.0)] * 3)
  assert health.fault() == ''
  health, _ = _health(*[(200, 0.1)] * 37, *[(200, 0.75)] * 3)
  assert '0.750 s, and the limit 0.5 s' in health.fault()
