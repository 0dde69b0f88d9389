"""Sends requests to servers of the OpenAI API."""

import http.client
import json
import os
from typing import Any
import urllib.parse
import urllib.request

from kd.core import addresses
from kd.core import errors


class _Refuse(urllib.request.HTTPRedirectHandler):
  """Follows no redirects, which could send the key to another server."""

  def redirect_request(self, *unused, **unused_too):
    del unused, unused_too


def open_url(
  url: str, fields: Any, key_variable: str, timeout_s: float
) -> http.client.HTTPResponse:
  """Sends a request and returns the response with its body unread.

  Args:
    url: URL of the request.
    fields: JSON body of a POST; None for a GET.
    key_variable: name of the environment variable that may contain the API key.
    timeout_s: seconds to wait for the server.

  Raises:
    urllib.error.HTTPError: the server returned an error.
    OSError, http.client.HTTPException: the server cannot be reached.
    ValueError: the URL is invalid.
    ConfigError: the key contains characters that cannot be sent.
  """
  headers = {'Content-Type': 'application/json'}
  key = os.environ.get(key_variable, '').strip()
  if not (key.isascii() and key.isprintable()):
    # The exception of http.client would show the key.
    raise errors.ConfigError(
      key_variable,
      'its value is not a valid API key',
      legal='printable ASCII characters',
    )
  if key:
    headers['Authorization'] = f'Bearer {key}'
  data = None if fields is None else json.dumps(fields).encode()
  handlers: list[urllib.request.BaseHandler] = [_Refuse()]
  if addresses.is_loopback(urllib.parse.urlsplit(url).hostname or ''):
    handlers.append(urllib.request.ProxyHandler({}))
  return urllib.request.build_opener(*handlers).open(
    urllib.request.Request(url, data, headers), timeout=timeout_s
  )


def detail(body: bytes) -> str:
  """Returns the message of an error of the OpenAI API, or else the body."""
  text = body.decode('utf-8', 'replace')
  try:
    return str(json.loads(text)['error']['message'])
  except (ValueError, KeyError, TypeError):
    return text
