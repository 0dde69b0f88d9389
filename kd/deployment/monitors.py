"""Checks that Prometheus has the alarms and that the webhook accepts posts."""

from http import client
import json
import socket
from typing import Any
from urllib import request

from kd.monitoring import rules
from kd.monitoring import webhook

_TIMEOUT_S = 10.0


def missing_rules(config: Any) -> tuple[list[str], int]:
  """Returns the alarms that Prometheus lacks, and the number of all alarms.

  Args:
    config: the config.

  Raises:
    OSError: Prometheus does not answer, or the answer is invalid.
  """
  url = config.alarms.prometheus.rstrip('/') + '/api/v1/rules?type=alert'
  try:
    with request.urlopen(url, timeout=_TIMEOUT_S) as answer:
      groups = json.load(answer)['data']['groups']
      there = {rule['name'] for group in groups for rule in group['rules']}
  except (client.HTTPException, ValueError, KeyError, TypeError) as e:
    raise OSError(f'{url}: not an answer of Prometheus') from e
  wanted = [alarm.name for alarm in rules.alarms(config)]
  return [name for name in wanted if name not in there], len(wanted)


def deliver_test(config: Any) -> None:
  """Posts a test alarm.

  Raises:
    OSError: the alarm was not delivered.
  """
  service = config.deploy.name
  text = f'kd: test alarm of {service} from {socket.gethostname()}'
  webhook.deliver(webhook.url(config), webhook.alarm('test', text, service))
