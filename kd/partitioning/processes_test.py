"""Tests that multi-process functions work in a single process."""

import pytest

from kd.config import base
from kd.core import errors
from kd.partitioning import processes


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
  for name in ('COORDINATOR_ADDRESS', 'NUM_PROCESSES', 'PROCESS_ID'):
    monkeypatch.delenv(f'JAX_{name}', raising=False)


def _settings(**changes):
  settings = base.get_config().processes
  settings.update(changes)
  return settings


def test_several_processes_without_a_coordinator_are_refused():
  with pytest.raises(errors.ConfigError, match='processes.coordinator'):
    processes.start(_settings(count=4))


def test_a_single_process_needs_no_coordinator():
  processes.start(_settings())
  assert processes.from_first(lambda: 7) == 7
  assert processes.first_then_all('it', lambda: 8) == 8
  with processes.waited_for('nothing'):
    processes.fail(ValueError('x'), code=1)
  processes.finish()
