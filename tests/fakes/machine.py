"""Fakes of the programs on a TPU VM: Pythons, uv and gcsfuse.

Usage: machine PROGRAM ARGUMENT...
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from tests.fakes import world as world_lib


def main(argv: list[str]) -> int:
  program, *arguments = argv
  world = world_lib.current()
  worker = os.environ['KD_FAKE_WORKER']
  world.record(program, [f'worker={worker}', *arguments])
  if program == 'uv':
    if 'find' in arguments:
      print(f'{world.root}/machine_bin/python')
  elif program == 'gcsfuse' and '--version' in arguments:
    print(f'gcsfuse version {world.plan["gcsfuse"]} (Go version go1.24.0)')
  elif 'kd' in arguments:
    return _kd(world, worker, arguments[arguments.index('kd') + 1 :])
  elif program.startswith('python'):
    return _python(world, arguments)
  return 0


def _python(world, arguments):
  """Runs the commands that setup gives a Python: environments and packages."""
  if '--require-hashes' in arguments:
    lock = pathlib.Path(arguments[arguments.index('--requirement') + 1])
    assert '--hash=sha256:' in lock.read_text(), lock
    if lock.name == 'requirements_uv.lock':
      target = pathlib.Path.home() / '.local' / 'bin' / 'uv'
      target.parent.mkdir(parents=True)
      shutil.copy(world.root / 'uv', target)
  elif arguments[0].endswith('make_venv.py'):
    script, lock, folder, option = arguments
    assert os.path.exists(script), script
    assert os.path.exists(lock), lock
    assert option == '--source_only=promise'
    target = os.path.join(folder, 'digest', 'bin', 'python')
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(f'{world.root}/machine_bin/python', target)
    print(target)
  elif arguments[0].endswith('bucket.py'):
    return _bucket(world, arguments)
  return 0


def _bucket(world, arguments):
  """Runs the real script with a folder of the world as the mount point."""
  mount = world.root / 'mnt' / 'kd'
  mount.mkdir(parents=True, exist_ok=True)
  moved = [a.replace('/mnt/kd', str(mount), 1) for a in arguments]
  return subprocess.run([sys.executable, *moved], check=False).returncode


def _kd(world, worker, arguments):
  """Ends with the planned exit code."""
  codes = world.plan['codes']
  slice_, _, index = worker.rpartition('/')
  start = world.count(f'starts-{slice_}-{index}')
  position = int(slice_ or 0) * world.plan['workers'] + int(index)
  code = codes[min(start, len(codes) - 1)][position]
  if code == 'real':
    real = [sys.executable, '-m', 'kd', *arguments]
    return subprocess.run(
      real, cwd=world.plan['root'], check=False, env=_real_env(world)
    ).returncode
  if code in ('hang', 'deaf'):
    signal.signal(
      signal.SIGTERM,
      (lambda *_: sys.exit(42)) if code == 'hang' else signal.SIG_IGN,
    )
    print('kd: training', flush=True)
    for _ in range(600):
      time.sleep(0.1)
      if not world.root.exists():
        break
  print(f'kd: leaving with {code}', flush=True)
  return code if isinstance(code, int) else 99


def _real_env(world):
  env = {**os.environ, 'PYTHONPATH': world.plan['root'], 'JAX_PLATFORMS': 'cpu'}
  env['PATH'] = '/usr/bin:/bin'
  return env


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
