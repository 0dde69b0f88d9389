"""Tests process settings from the config and the environment."""

import os

import pytest

from kd.config import base
from kd.core import errors
from kd.partitioning import membership


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  for name in list(os.environ):
    if name.startswith('JAX_') and name != 'JAX_PLATFORMS':
      monkeypatch.delenv(name)
  return monkeypatch


def _settings(**changes):
  settings = base.get_config().processes
  settings.update(changes)
  return settings


@pytest.mark.parametrize(
  'changes,words',
  [
    ({'count': 2}, ('processes.coordinator', 'processes.count is 2')),
    ({'index': 1}, ('processes.coordinator', 'processes.index is 1')),
    ({'count': 4, 'index': 4}, ('processes.index', 'found 4', '0 to 3')),
    ({'coordinator': 'host'}, ('processes.coordinator', 'HOST:PORT')),
    ({'coordinator': 'localhost:'}, ('processes.coordinator', 'HOST:PORT')),
    ({'coordinator': 'h:99999'}, ('processes.coordinator', '1 to 65535')),
    ({'coordinator': 'h:\u00b2'}, ('processes.coordinator', 'HOST:PORT')),
    ({'coordinator': 'host:1'}, ('processes.count', 'JAX_NUM_PROCESSES')),
    (
      {'coordinator': 'host:1', 'count': 2},
      ('processes.index', 'JAX_PROCESS_ID'),
    ),
  ],
)
def test_invalid_settings_are_named(changes, words):
  with pytest.raises(errors.ConfigError) as e:
    membership.check(_settings(**changes))
  assert all(word in str(e.value) for word in words), str(e.value)


def test_the_environment_supplies_unset_fields(environment):
  membership.check(_settings(coordinator='host:1', count=2, index=1))
  environment.setenv('JAX_COORDINATOR_ADDRESS', 'host:1')
  environment.setenv('JAX_NUM_PROCESSES', '2')
  environment.setenv('JAX_PROCESS_ID', '2')
  with pytest.raises(errors.ConfigError, match='found 2, of 2 processes'):
    membership.check(_settings())
  membership.check(_settings(count=3))
  for text in ('two', '\u00b2', '1' * 5000, '-1', ''):
    environment.setenv('JAX_PROCESS_ID', text)
    with pytest.raises(errors.ConfigError, match=r'JAX_PROCESS_ID'):
      membership.check(_settings())
