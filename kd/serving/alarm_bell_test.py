"""Tests that alarms arrive in order, and after failures of the webhook."""

import json
import threading

import pytest

from kd.monitoring import webhook
from kd.monitoring import webhook_cases
from kd.serving import alarm_bell


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch):
  monkeypatch.setattr(alarm_bell, '_LONGEST_DELAY_S', 0.01)
  wait = threading.Event.wait
  monkeypatch.setattr(
    threading.Event, 'wait', lambda self, s=None: wait(self, s and s / 100)
  )


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


@pytest.mark.parametrize('status', [404, 500])
def test_undelivered_alarms_are_logged(status, monkeypatch):
  monkeypatch.setattr(alarm_bell, '_GIVE_UP_S', 1.0)
  said = []
  with webhook_cases.receiver(status) as (url, posted):
    bell = alarm_bell.AlarmBell(url, 'tiny', said.append)
    bell.ring('a', 'first')
    bell._waiting.join()
  assert set(_texts(posted)) == {'kd: tiny: first'}
  assert (len(posted) > 1) == (status == 500)
  warning = f'warning: an alarm was not delivered: status {status}'
  assert said == ['alarm: first', warning]


def test_an_unexpected_error_ends_no_later_delivery():
  said = []
  with webhook_cases.receiver(200) as (url, posted):
    bell = alarm_bell.AlarmBell(url, 'tiny', said.append)
    bell.ring('a', 'first', value=object())  # JSON has no such value.
    bell.ring('a', 'second')
    bell._waiting.join()
  assert _texts(posted) == ['kd: tiny: second']
  assert 'TypeError' in said[-1]


def test_the_oldest_alarms_give_way_and_the_end_is_logged(monkeypatch):
  monkeypatch.setattr(alarm_bell, '_MOST_WAITING', 2)
  monkeypatch.setattr(alarm_bell, '_CLOSING_S', 0.2)
  said, delivered, allowed = [], [], threading.Event()

  def deliver(url, value):
    del url
    allowed.wait()
    delivered.append(value['text'])

  monkeypatch.setattr(webhook, 'deliver', deliver)
  bell = alarm_bell.AlarmBell('http://a/', 'tiny', said.append)
  bell.ring('a', '0')
  while bell._waiting.qsize():  # Until the thread holds the first.
    pass
  for text in '1234':
    bell.ring('a', text)
  full = 'warning: an alarm was not delivered: 2 later ones are waiting'
  assert said.count(full) == 2
  bell.close()
  assert said[-1] == 'warning: alarms that were not delivered: 3'
  allowed.set()
  bell._waiting.join()
  assert delivered == [f'kd: tiny: {text}' for text in '034']
