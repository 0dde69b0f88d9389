"""Tests kd registry: killed at any point, run concurrently, in a bucket."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from kd.core import buckets
from kd.core import errors
from kd.core import paths
from kd.modes import registry as registry_mode
from kd.versions import changes
from kd.versions import listing
from kd.versions import version_cases
from tests import command
from tests import object_store
from tests import page_commands


def test_killed_commands_leave_the_old_or_the_new_state(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.registry_kills', str(tmp_path)],
    env=command.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  kills = json.loads(done.stderr)
  assert len(kills) == 4 and all(n > 3 for n in kills.values()), kills


_STOPS = """
import sys
from tests import fault_driver
from kd.versions import changes
folder, model = sys.argv[1:]
fault_driver.signal_at_event(folder + '/versions', 2, 'SIGSTOP')
changes.add(folder, model, '', print)
"""


def test_concurrent_commands_are_refused(tmp_path):
  first, second = (version_cases.export(tmp_path / name) for name in 'ab')
  registry = str(tmp_path / 'registry')
  process = subprocess.Popen(
    [sys.executable, '-c', _STOPS, registry, first], env=command.environment()
  )
  try:
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    with pytest.raises(errors.ConfigError) as e:
      changes.add(registry, second, '', print)
    assert f"registry' is in use by process {process.pid}" in str(e.value)
    assert not changes.read(registry).versions
    os.kill(process.pid, 18)  # SIGCONT
    assert process.wait() == 0
  finally:
    process.kill()
  changes.add(registry, second, '', print)
  froms = [v.provenance for v in changes.read(registry).versions.values()]
  assert [x['source'] for x in froms] == ['a', 'b']


def test_registries_in_a_bucket(tmp_path, monkeypatch):
  models = [version_cases.export(tmp_path / name) for name in 'abc']
  report = version_cases.report(tmp_path, 'ship')
  url = 'gs://bucket/registry'
  with object_store.serve_here(monkeypatch) as store:

    def there():
      """Returns the local copy of another process."""
      buckets._copies.clear()
      return paths.expand(url)

    changes.add(there(), models[0], report, print)
    changes.promote(
      there(),
      page_commands.parse(['registry', 'list'])[0].registry,
      'v1',
      'production',
      print,
    )
    changes.add(there(), models[1], '', print)
    # Files are stored before the journal line that names them.
    order = [name.removeprefix('registry/') for name in store.writes]
    journal = [i for i, name in enumerate(order) if name == 'journal.jsonl']
    assert len(journal) == 3
    v2 = [i for i, name in enumerate(order) if name.startswith('versions/v2/')]
    assert journal[1] < min(v2) and max(v2) < journal[2]
    registry = there()
    # Weights are only downloaded when they are needed.
    assert not os.path.exists(os.path.join(registry, 'versions'))
    state = changes.read(registry)
    assert (state.production, list(state.versions)) == ('v1', ['v1', 'v2'])
    assert [ok for ok, _ in listing.findings(registry)] == [True, True]
    changes.prune(there(), 0, print)
    assert not store.names('bucket', 'registry/versions/v2/')
    weights = 'registry/versions/v1/model.safetensors'
    store.put('bucket', weights, b'other', lambda generation: True)
    registry = there()
    (line,) = [line for ok, line in listing.findings(registry) if not ok]
    assert buckets.shown(line).startswith(f'gs://bucket/{weights}: its digest')


def test_commands_on_the_page(tmp_path, monkeypatch, capsys):
  (tmp_path / 'kd-run' / 'export').mkdir(parents=True)
  version_cases.export(tmp_path / 'kd-run' / 'export' / 'hf')
  os.rename(version_cases.report(tmp_path, 'ship'), tmp_path / 'benchmark.json')
  commands = page_commands.commands('docs/versions.md')
  commands = [page_commands.parse(x) for x in commands]
  # tests/follow_slow_test.py serves a registry.
  commands = [x for x in commands if x[1]['mode'] == 'registry']
  monkeypatch.chdir(tmp_path)
  for config, flags in commands:
    words = shlex.split(flags['words'])
    if words == ['rollback', 'canary']:
      with pytest.raises(errors.ConfigError, match='no version is in stage'):
        registry_mode.main(config, None, words)
    else:
      registry_mode.main(config, None, words)
  out = capsys.readouterr().out
  assert 'v1 is in stage production' in out
  assert 'agrees: v1 (production): 4 files' in out


def test_the_command_line(tmp_path):
  model = version_cases.export(tmp_path / 'model')
  flag = f'--config.registry.folder={tmp_path}/registry'
  code, out, err = command.run(['--mode=registry', 'add', model, flag])
  assert (code, out) == (0, f'v1 is a candidate: {model}\n'), err
  code, _, err = command.run(
    ['--mode=registry', 'promote', 'v1', 'canary', flag]
  )
  assert (code, 'no benchmark report' in err) == (2, True), err
