"""Stands in for gcloud: knows the flags of what launch/ and its guide use."""

import pathlib
import shutil
import subprocess
import sys

from tests.fakes import world as world_lib

_TPU = {'--project', '--zone'}
_SSH = _TPU | {'--worker', '--command'}
_NEW = _TPU | {
  *('--accelerator-type', '--labels', '--network', '--scopes', '--spot'),
  *('--service-account', '--subnetwork'),
}
# The flags of each command that the real gcloud would take from us.
FLAGS = {
  ('compute', 'tpus', 'tpu-vm', 'create'): _NEW | {'--version'},
  ('compute', 'tpus', 'tpu-vm', 'describe'): _TPU | {'--format'},
  ('compute', 'tpus', 'tpu-vm', 'delete'): _TPU | {'--quiet'},
  ('compute', 'tpus', 'tpu-vm', 'ssh'): _SSH,
  ('compute', 'tpus', 'tpu-vm', 'scp'): _TPU | {'--worker', '--recurse'},
  ('compute', 'tpus', 'queued-resources', 'create'): _NEW
  | {'--runtime-version', '--node-id', '--async'},
  ('compute', 'tpus', 'queued-resources', 'describe'): _TPU | {'--format'},
  ('compute', 'tpus', 'queued-resources', 'delete'): _TPU
  | {'--force', '--quiet'},
  ('storage', 'rsync'): {'--recursive', '--project'},
  ('storage', 'cp'): {'--recursive', '--project'},
  ('storage', 'buckets', 'create'): {
    *('--project', '--location', '--enable-hierarchical-namespace'),
    '--uniform-bucket-level-access',
  },
  ('storage', 'rm'): {'--recursive'},
  ('services', 'enable'): {'--project'},
  ('auth', 'login'): set(),
  ('config', 'set'): set(),
  ('compute', 'config-ssh'): {'--project'},
  ('container', 'clusters', 'create'): {
    *('--project', '--location', '--workload-pool', '--addons'),
  },
  ('container', 'clusters', 'get-credentials'): {'--project', '--location'},
  ('container', 'node-pools', 'create'): {
    *('--project', '--location', '--cluster', '--node-locations'),
    *('--machine-type', '--tpu-topology', '--num-nodes', '--spot'),
  },
}
_ASKED = {
  'tpu-vm': 'value(state,labels.kd_launch)',
  'queued-resources': (
    'value(state.state,tpu.nodeSpec[0].node.labels.kd_launch)'
  ),
}


def main(argv: list[str]) -> int:
  world = world_lib.current()
  world.record('gcloud', argv)
  command = next(c for c in FLAGS if tuple(argv[: len(c)]) == c)
  rest = argv[len(command) :]
  flags = dict(a.partition('=')[::2] for a in rest if a.startswith('--'))
  names = [a for a in rest if not a.startswith('--')]
  unknown = set(flags) - FLAGS[command]
  if unknown:
    return _error(f'unrecognized arguments: {unknown}', 2)
  if command[:2] != ('compute', 'tpus'):
    return 0
  return _VERBS[command[3]](world, command[2], names, flags)


def _error(text: str, code: int = 1) -> int:
  print(f'ERROR: (gcloud) {text}', file=sys.stderr)
  return code


def _create(world, group, names, flags):
  (name,) = names
  if world.count('creations') < world.plan['create_fails']:
    return _error('There is no more capacity in the zone')
  if world.slice(name):
    return _error(f'ALREADY_EXISTS: Resource {name!r} already exists')
  label, _, token = flags['--labels'].partition('=')
  assert label == 'kd_launch', flags
  life = world.count('lives')
  value = {'group': group, 'token': token, 'life': life, 'looks': 0}
  world.put_slice(name, value)
  return 0


def _state(world, name):
  """(of the queued resource, of the slice), as last described."""
  here = world.slice(name)
  life = world.plan['lives'][here['life']]
  state = life[max(0, min(here['looks'], len(life)) - 1)]
  first, _, second = state.partition('/')
  return first, second or ('READY' if first == 'ACTIVE' else first)


def _describe(world, group, names, flags):
  (name,) = names
  assert flags['--format'] == _ASKED[group], flags
  here = world.slice(name)
  if here is None or (here['group'] != group and group != 'tpu-vm'):
    return _error(f'NOT_FOUND: Resource {name!r} was not found')
  if here['group'] == group:
    here['looks'] += 1
    world.put_slice(name, here)
  state = _state(world, name)[here['group'] != group]
  if state == 'NOT_FOUND':
    if group == here['group']:
      world.put_slice(name, None)
    return _error(f'NOT_FOUND: Resource {name!r} was not found')
  if state == 'ERROR':
    return _error('the connection was reset')
  if state != 'EMPTY':
    print(state, here['token'], sep='\t')
  return 0


def _delete(world, group, names, flags):
  del flags
  (name,) = names
  if world.slice(name) is None:
    return _error(f'NOT_FOUND: Resource {name!r} was not found')
  assert world.slice(name)['group'] == group
  world.put_slice(name, None)
  return 0


def _workers(world, name, flags):
  """The workers that a flag means, or an error as of a slice that is away."""
  if world.slice(name) is None or _state(world, name)[1] != 'READY':
    return _error(f'TPU {name!r} is not in a usable state'), []
  if flags.get('--worker', '0') == 'all':
    return 0, range(world.plan['workers'])
  return 0, [int(flags.get('--worker', '0'))]


def _ssh(world, group, names, flags):
  del group
  (name,) = names
  code, workers = _workers(world, name, flags)
  started = [
    subprocess.Popen(
      ['ssh', str(world.home(name, i)), str(i), flags['--command']],
      stdin=subprocess.DEVNULL,
    )
    for i in workers
  ]
  codes = [process.wait() for process in started]
  return code or next((c for c in codes if c), 0)


def _scp(world, group, names, flags):
  del group
  source, target = names
  name = next(n for n in names if ':' in n).partition(':')[0]
  code, workers = _workers(world, name, flags)
  for i in workers:
    home = world.home(name, i)
    if ':' in target:
      shutil.copy(source, home / target.partition(':')[2])
    else:
      assert len(workers) == 1, 'gcloud copies from one worker only'
      folder = pathlib.Path(source.partition(':')[2])
      shutil.copytree(folder, target, dirs_exist_ok=True)
  return code


_VERBS = {
  'create': _create,
  'describe': _describe,
  'delete': _delete,
  'ssh': _ssh,
  'scp': _scp,
}

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
