"""Tests that alarms arrive in order, and after a failure of the webhook."""

import json

import pytest

from kd.monitoring import webhook_cases
from kd.serving import alarm_bell


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch):
  monkeypatch.setattr(alarm_bell, '_DELAYS_S', (0.01, 0.01, 0.01))


def _texts(posted):
  return [json.loads(body)['text'] for _, _, body in posted]


def test_alarms_are_posted_again_until_they_are_delivered():
  said = []
  with webhook_cases.receiver(503, 429, 200) as (url, posted):
    bell = alarm_bell.AlarmBell(url, 'tiny', said.append)
    bell.ring('a', 'first', status='firing')
    bell.ring('a', 'second')
    bell._waiting.join()
  first, second = 'kd: tiny: first', 'kd: tiny: second'
  assert _texts(posted) == [first, first, first, second]
  assert json.loads(posted[2][2])['status'] == 'firing'
  assert said == ['alarm: first', 'alarm: second']


@pytest.mark.parametrize(('status', 'attempts'), [(404, 1), (500, 4)])
def test_undelivered_alarms_are_logged(status, attempts):
  said = []
  with webhook_cases.receiver(*[status] * attempts, 200) as (url, posted):
    bell = alarm_bell.AlarmBell(url, 'tiny', said.append)
    bell.ring('a', 'first')
    bell.ring('a', 'second')
    bell._waiting.join()
  assert _texts(posted) == ['kd: tiny: first'] * attempts + ['kd: tiny: second']
  warning = f'warning: an alarm was not delivered: status {status}'
  assert sorted(said) == ['alarm: first', 'alarm: second', warning]
