"""Fake kubectl with one namespace and at most one JobSet per name."""

import pathlib
import re
import sys

from tests.fakes import world as world_lib

_SHARED = {'--context', '--namespace'}
FLAGS = {
  'get': _SHARED | {'--ignore-not-found', '--output', '--selector'},
  'apply': _SHARED | {'--filename', '--server-side'},
  'delete': _SHARED,
  'logs': _SHARED
  | {'--follow', '--prefix', '--container', '--max-log-requests', '--selector'},
  'create': _SHARED,
  'annotate': _SHARED,
}


def main(argv: list[str]) -> int:
  world = world_lib.current()
  world.record('kubectl', argv)
  flags = dict(a.partition('=')[::2] for a in argv if a.startswith('--'))
  verb, *names = [a for a in argv if not a.startswith('--')]
  unknown = set(flags) - FLAGS[verb]
  if unknown:
    print(f'error: unknown flag: {unknown}', file=sys.stderr)
    return 1
  if world.plan['kubectl_fails']:
    print('Unable to connect to the server', file=sys.stderr)
    return 1
  if verb == 'apply':
    path = pathlib.Path(flags['--filename'])
    if path.exists():
      text = path.read_text()
      name = re.search(r'^  name: (.*)$', text, re.MULTILINE)[1]
      world.put_slice(name, {'manifest': text})
  elif verb == 'delete':
    world.put_slice(names[1], None)
  elif verb == 'get' and names[0] == 'jobset' and '--ignore-not-found' in flags:
    here = world.slice(names[1])
    if here:
      found = re.search(r'kd_launch: "(.*)"', here['manifest'])
      print(names[1], found[1] if found else '', end='')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
