"""Asks the monitoring of a server whether it would notice and tell."""

from http import client
import json
import socket
from typing import Any
from urllib import request

from kd.monitoring import rules
from kd.monitoring import webhook

_TIMEOUT_S = 10.0


def missing_rules(config: Any) -> tuple[list[str], int]:
  """Returns the alarms that Prometheus lacks, and how many there are.

  Args:
    config: the whole config.

  Raises:
    OSError: it does not answer as Prometheus does.
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
    OSError: it was not delivered.
  """
  service = config.deploy.name
  text = f'kd: test alarm of {service} from {socket.gethostname()}'
  webhook.deliver(webhook.url(config), webhook.alarm('test', text, service))
