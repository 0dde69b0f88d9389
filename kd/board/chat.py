"""Forwards chats to OpenAI-compatible servers, streaming the answers."""

from collections.abc import Iterator, Sequence
import http.client
import json
from typing import Any
import urllib.error

from kd.config.fields import serve as serve_fields
from kd.core import endpoints
from kd.core import errors

_TIMEOUT_S, _LIST_TIMEOUT_S = 120, 5
_FIELDS = ('model', 'messages', 'max_tokens', 'temperature', 'seed')


def stream(servers: Sequence[str], request: Any) -> Iterator[bytes]:
  """Returns a stream of the server's events.

  Args:
    servers: URLs of the servers.
    request: `server`, an index into `servers`; `model`, one of `names`; and
      fields of a chat completion.

  Raises:
    ConfigError: the server does not exist, or there are no messages.
  """
  if not isinstance(request, dict) or 'messages' not in request:
    raise errors.ConfigError('chat', 'found no messages')
  number = request.get('server')
  if type(number) is not int or not 0 <= number < len(servers):
    raise errors.ConfigError(
      'chat', f'found server {number!r}', legal='a number of board.models'
    )
  return _events(servers[number], request)


def _events(url, request):
  """Yields events; a failure is an event with the field `error`."""
  try:
    fields = {k: request[k] for k in _FIELDS if k in request}
    fields |= {'stream': True}
    with _open(f'{url}/chat/completions', fields) as response:
      yield from response
  except urllib.error.HTTPError as e:
    yield _error(f'{url}: {e.code}: {endpoints.detail(e.read(2000))}')
  except (
    *(OSError, ValueError, http.client.HTTPException),
    errors.ConfigError,
  ) as e:
    yield _error(f'{url}: {e}')


def names(url: str) -> dict[str, Any]:
  """Returns the names of a server's models, or an error as `problem`."""
  try:
    with _open(f'{url}/models', timeout_s=_LIST_TIMEOUT_S) as response:
      listed = json.load(response)
    return {'url': url, 'models': [str(x['id']) for x in listed['data']]}
  except (
    *(OSError, ValueError, http.client.HTTPException),
    errors.ConfigError,
  ) as e:
    return {'url': url, 'models': [], 'problem': f'{url}: {e}'}
  except (KeyError, TypeError):
    return {'url': url, 'models': [], 'problem': f'{url}: no list of models'}


def _open(url, fields=None, timeout_s=_TIMEOUT_S):
  key = serve_fields.KEY_VARIABLE
  return endpoints.open_url(url, fields, key, timeout_s)


def _error(message):
  return b'data: ' + json.dumps({'error': message}).encode() + b'\n\n'
