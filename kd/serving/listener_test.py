"""Tests the allowed addresses of the server."""

import pytest

from kd.core import errors
from kd.serving import listener


@pytest.mark.parametrize(
  ('host', 'is_open'),
  (
    ('127.0.0.1', False),
    ('127.8.8.8', False),
    ('::1', False),
    ('localhost', False),
    ('0.0.0.0', True),
    ('::', True),
    ('10.0.0.7', True),
    ('node-3.local', True),
  ),
)
def test_other_machines_need_a_key(host, is_open):
  for has_key, without_key in ((True, False), (False, True)):
    listener.check_host(host, has_key, without_key)
  if not is_open:
    listener.check_host(host, False, False)
    return
  with pytest.raises(errors.ConfigError, match='serve.host.*KD_API_KEY'):
    listener.check_host(host, False, False)


def test_a_port_in_use_is_named():
  with listener.bind('127.0.0.1', 0) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(errors.ConfigError, match=f'serve.port.*{port}'):
      listener.bind('127.0.0.1', port)
