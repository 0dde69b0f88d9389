"""Fake gcloud with the flags that launch/ and its guide use.

FLAGS contains flags from `gcloud help COMMAND` of version 578.0.0; the pages
are https://docs.cloud.google.com/sdk/gcloud/reference/ followed by the words of
the command. A command in the alpha track has a separate entry.
"""

import pathlib
import shutil
import subprocess
import sys

from tests.fakes import world as world_lib

_TPU = {'--project', '--zone'}
# Flags of both ssh and scp. IAP is in the alpha track and for queued resources.
_CONNECT = _TPU | {
  *(
    '--worker',
    '--internal-ip',
    '--ssh-key-file',
    '--force-key-file-overwrite',
  ),
  *('--plain', '--strict-host-key-checking'),
}
_SSH = _CONNECT | {'--command', '--ssh-flag'}
_SCP = _CONNECT | {'--recurse', '--compress', '--scp-flag'}
_IAP = {'--tunnel-through-iap', '--batch-size'}
_NEW = _TPU | {
  *('--accelerator-type', '--labels', '--network', '--scopes', '--spot'),
  *('--service-account', '--subnetwork', '--internal-ips', '--reserved'),
  *('--tags', '--metadata', '--description', '--data-disk'),
}
_QUEUED = _NEW | {
  *('--runtime-version', '--node-id', '--node-count', '--node-prefix'),
  *('--async', '--valid-until-duration', '--guaranteed'),
}
_TPU_VM = ('compute', 'tpus', 'tpu-vm')
_REQUESTS = ('compute', 'tpus', 'queued-resources')
_CLUSTER = {'--project', '--location', '--cluster'}
FLAGS = {
  (*_TPU_VM, 'create'): _NEW | {'--version'},
  ('alpha', *_TPU_VM, 'create'): _NEW
  | {'--version', '--reservation', '--provisioning-model'},
  (*_TPU_VM, 'describe'): _TPU | {'--format'},
  (*_TPU_VM, 'delete'): _TPU | {'--quiet'},
  (*_TPU_VM, 'ssh'): _SSH,
  (*_TPU_VM, 'scp'): _SCP,
  ('alpha', *_TPU_VM, 'ssh'): _SSH | _IAP,
  ('alpha', *_TPU_VM, 'scp'): _SCP | _IAP,
  (*_REQUESTS, 'create'): _QUEUED,
  ('alpha', *_REQUESTS, 'create'): _QUEUED
  | {'--reservation', '--provisioning-model', '--max-run-duration'},
  (*_REQUESTS, 'describe'): _TPU | {'--format'},
  (*_REQUESTS, 'delete'): _TPU | {'--force', '--quiet'},
  (*_REQUESTS, 'ssh'): _SSH | _IAP | {'--node'},
  (*_REQUESTS, 'scp'): _SCP | _IAP | {'--node'},
  ('compute', 'resource-policies', 'create', 'workload-policy'): {
    *('--project', '--region', '--type', '--accelerator-topology'),
  },
  ('compute', 'resource-policies', 'describe'): {
    *('--project', '--region', '--format'),
  },
  ('compute', 'resource-policies', 'delete'): {
    *('--project', '--region', '--quiet'),
  },
  ('compute', 'config-ssh'): {'--project'},
  ('compute', 'firewall-rules', 'create'): {
    *('--project', '--network', '--allow', '--direction', '--source-ranges'),
  },
  ('compute', 'routers', 'create'): {'--project', '--region', '--network'},
  ('compute', 'routers', 'nats', 'create'): {
    *('--project', '--region', '--router', '--auto-allocate-nat-external-ips'),
    '--nat-all-subnet-ip-ranges',
  },
  ('storage', 'rsync'): {'--recursive', '--project'},
  ('storage', 'cp'): {'--recursive', '--project'},
  ('storage', 'buckets', 'create'): {
    *('--project', '--location', '--enable-hierarchical-namespace'),
    '--uniform-bucket-level-access',
  },
  ('storage', 'buckets', 'add-iam-policy-binding'): {'--member', '--role'},
  ('storage', 'rm'): {'--recursive'},
  ('projects', 'describe'): {'--format'},
  ('services', 'enable'): {'--project'},
  ('auth', 'login'): set(),
  ('auth', 'configure-docker'): set(),
  ('artifacts', 'repositories', 'create'): {
    *('--project', '--location', '--repository-format'),
  },
  ('container', 'clusters', 'create'): {
    *('--project', '--location', '--workload-pool', '--addons'),
    *('--enable-dns-access', '--machine-type', '--num-nodes'),
    *('--node-locations', '--enable-private-nodes', '--enable-ip-alias'),
  },
  ('container', 'clusters', 'delete'): {'--project', '--location', '--quiet'},
  ('container', 'clusters', 'get-credentials'): {
    *('--project', '--location', '--dns-endpoint'),
  },
  ('container', 'node-pools', 'create'): _CLUSTER
  | {
    *('--node-locations', '--machine-type', '--tpu-topology', '--num-nodes'),
    *('--placement-policy', '--spot', '--labels', '--enable-private-nodes'),
    *('--reservation-affinity', '--reservation', '--flex-start'),
    *('--enable-autoscaling', '--max-nodes', '--location-policy'),
    *('--no-enable-autorepair', '--max-run-duration', '--disk-size'),
    *('--node-version', '--tags'),
  },
  ('container', 'node-pools', 'describe'): _CLUSTER | {'--format'},
  ('container', 'node-pools', 'delete'): _CLUSTER | {'--quiet'},
}
_DESCRIBED = {
  'tpu-vm': 'value(state,labels.kd_launch,networkEndpoints.len())',
  'queued-resources': (
    'value(state.state,tpu.nodeSpec[0].node.labels.kd_launch)'
  ),
}
_POOL = 'value(config.resourceLabels.kd_launch)'


def main(argv: list[str]) -> int:
  world = world_lib.current()
  world.record('gcloud', argv)
  fitting = [c for c in FLAGS if tuple(argv[: len(c)]) == c]
  if not fitting:
    return _error(f'Invalid choice: {argv[:5]}', 2)
  command = fitting[0]
  rest = argv[len(command) :]
  flags = dict(a.partition('=')[::2] for a in rest if a.startswith('--'))
  names = [a for a in rest if not a.startswith('--')]
  unknown = set(flags) - FLAGS[command]
  if unknown:
    return _error(f'unrecognized arguments: {unknown}', 2)
  *_, group, verb = command
  if 'node-pools' in command:
    return _POOL_VERBS[verb](world, names, flags)
  if 'resource-policies' in command:
    return _policy(world, verb, names)
  if 'tpus' not in command:
    return 0
  return _VERBS[verb](world, group, names, flags)


def _error(text: str, code: int = 1) -> int:
  print(f'ERROR: (gcloud) {text}', file=sys.stderr)
  return code


def _not_found(name):
  return _error(f'NOT_FOUND: Resource {name!r} was not found')


def _create(world, group, names, flags):
  (name,) = names
  if world.count('creations') < world.plan['create_fails']:
    return _error('There is no more capacity in the zone')
  if world.slice(name):
    return _error(f'ALREADY_EXISTS: Resource {name!r} already exists')
  label, _, token = flags['--labels'].partition('=')
  assert label == 'kd_launch', flags
  if group == 'queued-resources':
    # The reference requires exactly one of the two.
    assert ('--node-id' in flags) != ('--node-count' in flags), flags
    assert flags.get('--node-prefix', name) == name
  life = world.count('lives')
  slices = int(flags.get('--node-count', 1))
  internal = '--internal-ips' in flags
  value = {'group': group, 'token': token, 'life': life, 'looks': 0}
  world.put_slice(name, {**value, 'slices': slices, 'internal': internal})
  return 0


def _state(world, name, index=0):
  """Returns the last described states of a queued resource and of a slice.

  'ACTIVE/READY,PREEMPTED' is the state of a request and of its slices.
  """
  here = world.slice(name)
  life = world.plan['lives'][here['life']]
  state = life[max(0, min(here['looks'], len(life)) - 1)]
  first, _, second = state.partition('/')
  slices = second.split(',') if second else []
  if index < len(slices):
    return first, slices[index]
  return first, 'READY' if first == 'ACTIVE' else first


def _owner(world, name):
  """Returns the resource that contains a slice, and the slice's index."""
  if world.slice(name):
    return name, 0
  base, _, index = name.rpartition('-')
  here = world.slice(base) if base else None
  if here and index.isdecimal() and int(index) < here.get('slices', 1):
    return base, int(index)
  return name, 0


def _describe(world, group, names, flags):
  (name,) = names
  assert flags['--format'] == _DESCRIBED[group], flags
  base, index = (name, 0) if group != 'tpu-vm' else _owner(world, name)
  here = world.slice(base)
  if here is None or (here['group'] != group and group != 'tpu-vm'):
    return _not_found(name)
  if here.get('slices', 1) > 1 and group == 'tpu-vm' and base == name:
    return _not_found(name)
  if here['group'] == group:
    here['looks'] += 1
    world.put_slice(base, here)
  state = _state(world, base, index)[here['group'] != group]
  if state == 'NOT_FOUND':
    if group == here['group']:
      world.put_slice(base, None)
    return _not_found(name)
  if state == 'ERROR':
    return _error('the connection was reset')
  if state == 'EMPTY':
    return 0
  answer = [state, here['token']]
  if group == 'tpu-vm':
    answer.append('0' if state != 'READY' else world.plan['endpoints'])
  print(*answer, sep='\t')
  return 0


def _delete(world, group, names, flags):
  del flags
  (name,) = names
  if world.slice(name) is None:
    return _not_found(name)
  assert world.slice(name)['group'] == group
  world.put_slice(name, None)
  return 0


def _workers(world, group, name, flags):
  """Returns an exit code and the ids of the workers selected by the flags."""
  base, index = (name, 0) if group != 'tpu-vm' else _owner(world, name)
  here = world.slice(base)
  if here is None or _state(world, base, index)[1] != 'READY':
    return _error(f'TPU {name!r} is not in a usable state'), []
  if here.get('internal') and not (
    {'--internal-ip', '--tunnel-through-iap'} & set(flags)
  ):
    return _error(f'{name!r} has no external IP address'), []
  ids = world.worker_ids(base)
  slices = here.get('slices', 1)
  if group == 'tpu-vm' and slices > 1:
    ids = ids[len(ids) // slices * index :][: len(ids) // slices]
  elif group != 'tpu-vm':
    assert flags['--node'] == 'all'
  if flags.get('--worker', '0') == 'all':
    return 0, [(base, i) for i in ids]
  return 0, [(base, ids[int(flags.get('--worker', '0'))])]


def _ssh(world, group, names, flags):
  (name,) = names
  code, workers = _workers(world, group, name, flags)
  started = [
    subprocess.Popen(
      ['ssh', str(world.home(base, i)), i, flags['--command']],
      stdin=subprocess.DEVNULL,
    )
    for base, i in workers
  ]
  codes = [process.wait() for process in started]
  return code or next((c for c in codes if c), 0)


def _scp(world, group, names, flags):
  source, target = names
  name = next(n for n in names if ':' in n).partition(':')[0]
  code, workers = _workers(world, group, name, flags)
  for base, i in workers:
    home = world.home(base, i)
    if ':' in target:
      shutil.copy(source, home / target.partition(':')[2])
    else:
      assert len(workers) == 1, 'gcloud copies from one worker only'
      folder = pathlib.Path(source.partition(':')[2])
      shutil.copytree(folder, target, dirs_exist_ok=True)
  return code


def _policy(world, verb, names):
  (name,) = names
  here = world.slice(f'policy.{name}')
  if verb == 'workload-policy':
    world.put_slice(f'policy.{name}', {})
  elif here is None:
    return _not_found(name)
  elif verb == 'delete':
    world.put_slice(f'policy.{name}', None)
  else:
    print(name)
  return 0


def _create_pool(world, names, flags):
  (name,) = names
  if world.slice(f'pool.{name}'):
    return _error(f'ALREADY_EXISTS: {name}')
  token = flags['--labels'].partition('=')[2] if '--labels' in flags else ''
  world.put_slice(f'pool.{name}', {'token': token, 'flags': flags})
  return 0


def _describe_pool(world, names, flags):
  (name,) = names
  assert flags['--format'] == _POOL, flags
  here = world.slice(f'pool.{name}')
  if here is None:
    return _not_found(name)
  print(here['token'])
  return 0


def _delete_pool(world, names, flags):
  del flags
  (name,) = names
  if world.slice(f'pool.{name}') is None:
    return _not_found(name)
  world.put_slice(f'pool.{name}', None)
  return 0


_VERBS = {
  'create': _create,
  'describe': _describe,
  'delete': _delete,
  'ssh': _ssh,
  'scp': _scp,
}
_POOL_VERBS = {
  'create': _create_pool,
  'describe': _describe_pool,
  'delete': _delete_pool,
}

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
