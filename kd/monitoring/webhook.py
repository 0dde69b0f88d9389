"""Delivers alarms to a webhook: one POST of a JSON object each."""

from collections.abc import Mapping
import json
from typing import Any
from urllib import error
from urllib import request

_TIMEOUT_S = 10.0


def deliver(url: str, alarm: Mapping[str, Any]) -> None:
  """Posts an alarm.

  Chats (Slack, Mattermost, Google Chat) show `text`; other fields are for
  programs.

  Args:
    url: of the webhook.
    alarm: JSON values, with `text`.

  Raises:
    OSError: it was not delivered: no answer, or a status other than 2xx.
  """
  posted = request.Request(
    url,
    data=json.dumps(alarm).encode(),
    headers={'Content-Type': 'application/json'},
  )
  try:
    with request.urlopen(posted, timeout=_TIMEOUT_S):
      pass
  except error.HTTPError as e:
    # Its message has no URL: webhooks contain a secret.
    raise OSError(f'status {e.code}') from e
