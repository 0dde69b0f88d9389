"""Tests that alarms arrive at a webhook, or that an error is raised."""

import json

import pytest

from kd.monitoring import webhook
from kd.monitoring import webhook_cases


def test_alarms_are_delivered_or_raise_an_error():
  with webhook_cases.receiver(204) as (url, posted):
    webhook.deliver(url, {'text': 'kd: é'})
  ((path, kind, body),) = posted
  assert (path, kind) == ('/hook?token=secret', 'application/json')
  assert json.loads(body) == {'text': 'kd: é'}
  with pytest.raises(OSError):  # Nobody listens there now.
    webhook.deliver(url, {'text': ''})
  for status, refused in ((500, False), (429, False), (404, True)):
    with (
      webhook_cases.receiver(status) as (url, _),
      pytest.raises(OSError, match=f'^status {status}$') as e,
    ):
      webhook.deliver(url, {'text': ''})
    assert isinstance(e.value, webhook.RefusedError) == refused
  for wrong in (
    *(
      'http://secret:80x/',
      'http://[secret',
      'htps://secret',
      'http:///secret',
    ),
    *('file:///etc/hostname', 'secret'),
  ):
    with pytest.raises(webhook.RefusedError, match='not a URL') as e:
      webhook.deliver(wrong, {'text': ''})
    assert 'secret' not in str(e.value)
