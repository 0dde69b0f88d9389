"""Fake ssh that runs a command locally in a worker's home folder.

Usage: ssh HOME WORKER COMMAND. The command gets a new session, which receives
SIGHUP when the command ends, as at the end of a connection.
"""

import contextlib
import os
import signal
import subprocess
import sys

from tests.fakes import world as world_lib


def main(argv: list[str]) -> int:
  home, worker, command = argv
  world = world_lib.current()
  world.record('ssh', argv)
  for kind, code in (('fail', 255), ('mute', 0)):
    for i, (text, which, times) in enumerate(world.plan[kind]):
      asked = text in command and worker == str(which)
      if asked and world.count(f'{kind}-{i}') < times:
        return code
  env = {
    'HOME': home,
    'KD_FAKE_WORLD': str(world.root),
    'KD_FAKE_WORKER': worker,
    'GCE_METADATA_HOST': world.plan['storage'],
    'STORAGE_EMULATOR_HOST': f'http://{world.plan["storage"]}',
    'PATH': f'{world.root}/machine_bin:/usr/bin:/bin',
  }
  with subprocess.Popen(
    ['bash', '-c', command], cwd=home, env=env, start_new_session=True
  ) as process:
    signal.signal(
      signal.SIGTERM, lambda *_: os.killpg(process.pid, signal.SIGHUP)
    )
    code = process.wait()
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGHUP)
  return code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
