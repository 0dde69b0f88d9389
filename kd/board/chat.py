"""Passes a chat on to an OpenAI-compatible server, as it streams."""

from collections.abc import Iterator, Sequence
import http.client
import json
import os
from typing import Any
import urllib.error
import urllib.request

from kd.core import errors

KEY = 'KD_API_KEY'  # As `kd serve` reads it.
_TIMEOUT_S = 120
_FIELDS = ('messages', 'max_tokens', 'temperature', 'seed')


def stream(models: Sequence[str], request: Any) -> Iterator[bytes]:
  """Returns the server's events, as they come.

  Args:
    models: URLs of the servers.
    request: `model`, a number of one, and fields of a chat completion.

  Raises:
    ConfigError: there is no such server, or no messages.
  """
  if not isinstance(request, dict) or 'messages' not in request:
    raise errors.ConfigError('chat', 'found no messages')
  number = request.get('model')
  if type(number) is not int or not 0 <= number < len(models):
    raise errors.ConfigError(
      'chat', f'found model {number!r}', legal='a number of board.models'
    )
  return _events(models[number], request)


def _events(url, request):
  """Yields events; a failure is one with `error`."""
  try:
    fields = {k: request[k] for k in _FIELDS if k in request}
    fields |= {'stream': True, 'model': _model_of(url)}
    with _open(f'{url}/chat/completions', fields) as response:
      yield from response
  except urllib.error.HTTPError as e:
    detail = e.read(2000).decode('utf-8', 'replace')
    yield _error(f'{url}: {e.code}: {detail}')
  except (OSError, ValueError, http.client.HTTPException) as e:
    yield _error(f'{url}: {e}')


def _model_of(url):
  """Returns the name of the first model that a server has."""
  with _open(f'{url}/models') as response:
    listed = json.load(response)
  try:
    return str(listed['data'][0]['id'])
  except (KeyError, IndexError, TypeError) as e:
    raise ValueError('its list of models is empty') from e


def _open(url, fields=None):
  headers = {'Content-Type': 'application/json'}
  if os.environ.get(KEY):
    headers['Authorization'] = f'Bearer {os.environ[KEY]}'
  data = None if fields is None else json.dumps(fields).encode()
  return urllib.request.urlopen(
    urllib.request.Request(url, data, headers), timeout=_TIMEOUT_S
  )


def _error(message):
  return b'data: ' + json.dumps({'error': message}).encode() + b'\n\n'
