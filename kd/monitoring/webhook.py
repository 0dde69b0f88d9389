"""Delivers alarms to a webhook, one POST of a JSON object each."""

from collections.abc import Mapping
from http import client
import json
import os
import socket
from typing import Any
from urllib import error
from urllib import request

from kd.core import run_info

# Environment variable for the URL, which is a secret.
VARIABLE = 'KD_ALARMS_WEBHOOK'
_TIMEOUT_S = 10.0


def url(config: Any) -> str:
  """Returns the URL that alarms are posted to; '' for none.

  Args:
    config: the config; `alarms.webhook` takes precedence over the variable.
  """
  return config.alarms.webhook or os.environ.get(VARIABLE, '')


def alarm(kind: str, text: str, service: str, **more: Any) -> dict[str, Any]:
  """Returns an alarm of this machine, for `deliver`.

  Args:
    kind: kind of the alarm.
    text: the message.
    service: name of the service.
    **more: further JSON fields.
  """
  return {
    'text': text,
    'alarm': kind,
    'service': service,
    'host': socket.gethostname(),
    'date': run_info.now(),
    **more,
  }


def deliver(to: str, value: Mapping[str, Any]) -> None:
  """Posts an alarm.

  Chats (Slack, Mattermost, Google Chat) show `text`; other fields are for
  programs.

  Args:
    to: URL of the webhook.
    value: alarm from `alarm`.

  Raises:
    OSError: there was no answer, or a status other than 2xx.
  """
  data = json.dumps(value).encode()
  try:
    posted = request.Request(
      to, data=data, headers={'Content-Type': 'application/json'}
    )
    with request.urlopen(posted, timeout=_TIMEOUT_S):
      pass
  except error.HTTPError as e:
    # The message omits the URL, which contains a secret.
    raise OSError(f'status {e.code}') from e
  except (client.HTTPException, ValueError) as e:
    raise OSError(f'not a URL, or no answer of HTTP: {type(e).__name__}') from e
