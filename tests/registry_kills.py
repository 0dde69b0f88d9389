"""Kills commands of a registry at each of their file events.

  python -m tests.registry_kills FOLDER

Each command runs in forks: undisturbed, then killed at its first event on the
registry's files, at its second, and so on. After each kill the journal must
have its lines from before or after the command, and repeating the command must
succeed. Prints the number of kills per command.
"""

import json
import os
import pathlib
import shutil
import sys

from kd.config import base
from kd.versions import changes
from kd.versions import listing
from kd.versions import state as state_lib
from kd.versions import version_cases
from tests import fault_driver

_KILLED = -9


def _commands(folder):
  """Returns functions that create a registry, and commands to test by name.

  All are functions of the registry's folder, in order.
  """
  settings = base.get_config().registry
  models = [version_cases.export(folder / name) for name in 'ab']
  report = version_cases.report(folder, 'ship')
  add = lambda i: lambda r: changes.add(r, models[i], report, print)
  promote = lambda n, s: lambda r: changes.promote(r, settings, n, s, print)
  begin = [add(0), promote('v1', state_lib.PRODUCTION)]
  return begin, {
    'add': add(1),
    'promote': promote('v2', state_lib.PRODUCTION),
    'roll back': lambda r: changes.rollback(r, state_lib.PRODUCTION, print),
    'prune': lambda r: changes.prune(r, 0, print),
  }


def _run(call, *before):
  """Runs a function in a fork; returns its exit code, or minus the signal."""

  def in_fork():
    for prepare in before:
      prepare()
    call()

  status = os.waitpid(fault_driver._fork(in_fork), 0)[1]
  return os.waitstatus_to_exitcode(status)


def _summary(registry):
  """Returns the state of a registry without dates."""
  state = changes.read(registry)
  return state.productions, state.canary, state.added, {*state.versions}


def _whole(registry):
  """Returns whether all files of all versions are whole, with no others."""
  is_whole = all(ok for ok, _ in listing.findings(registry))
  return is_whole and not changes.unnamed(registry, changes.read(registry))


def _killed_everywhere(folder, before, call):
  """Kills a command before each event; returns the number of kills.

  Args:
    folder: folder for copies of the registry.
    before: folder of the registry before the command.
    call: function that runs the command.
  """
  straight = str(folder / 'straight')
  shutil.copytree(before, straight)
  assert _run(lambda: call(straight)) == 0
  old, new = _summary(before), _summary(straight)
  assert old != new and _whole(straight)
  kills, seen = 0, set()
  while True:
    registry = str(folder / f'kill{kills}')
    shutil.copytree(before, registry)
    kill = lambda r=registry, n=kills + 1: fault_driver.signal_at_event(
      r, n, 'SIGKILL'
    )
    code = _run(lambda r=registry: call(r), kill)
    if code != _KILLED:
      assert code == 0, code
      break
    kills += 1
    after = _summary(registry)
    assert after in (old, new), (kills, after)
    seen.add(after == new)
    # All files that the journal names exist.
    assert all(ok for ok, _ in listing.findings(registry)), kills
    # A command that took effect must not run again: a second roll-back, for
    # example, would be another change.
    if after == old:
      assert _run(lambda r=registry: call(r)) == 0, kills
    assert _summary(registry) == new, kills
    assert after == new or _whole(registry), kills
    shutil.rmtree(registry)
  assert False in seen
  os.replace(registry, folder / 'done')
  return kills


def main(folder):
  registry, kills = str(folder / 'registry'), {}
  begin, commands = _commands(folder)
  for call in begin:
    assert _run(lambda call=call: call(registry)) == 0
  for number, (name, call) in enumerate(commands.items()):
    where = folder / str(number)
    where.mkdir()
    kills[name] = _killed_everywhere(where, registry, call)
    registry = str(where / 'done')
  json.dump(kills, sys.stderr)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
