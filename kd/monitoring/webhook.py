"""Delivers alarms to a webhook, one POST of a JSON object each."""

from collections.abc import Mapping
from http import client
import json
import os
import socket
from typing import Any
from urllib import error
from urllib import parse
from urllib import request

from kd.core import run_info

# Environment variable for the URL, which is a secret.
VARIABLE = 'KD_ALARMS_WEBHOOK'
_TIMEOUT_S = 10.0
# Statuses below 500 after which another attempt may succeed.
_TEMPORARY = (408, 425, 429)


class RefusedError(OSError):
  """Another attempt to deliver the alarm would fail as well."""


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
    RefusedError: the URL is invalid, or the server rejects the request.
    OSError: there was no answer, or a status other than 2xx.
  """
  data = json.dumps(value).encode()
  try:
    parts = parse.urlsplit(to)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
      raise RefusedError('not a URL of a web server')
    posted = request.Request(
      to, data=data, headers={'Content-Type': 'application/json'}
    )
    with request.urlopen(posted, timeout=_TIMEOUT_S):
      pass
  except error.HTTPError as e:
    # The message omits the URL, which contains a secret.
    is_refused = e.code < 500 and e.code not in _TEMPORARY
    error_type = RefusedError if is_refused else OSError
    raise error_type(f'status {e.code}') from e
  except (client.InvalidURL, ValueError) as e:
    raise RefusedError(f'not a URL: {type(e).__name__}') from e
  except client.HTTPException as e:
    raise OSError(f'not an HTTP response: {type(e).__name__}') from e
