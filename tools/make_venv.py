"""Creates the virtual environment of a hashed lock once; prints its Python.

Usage: make_venv.py requirements.lock FOLDER [--source_only=NAME]...
  [--unhashed=FILE]

The environment is in FOLDER/<digest of its requirements and of this Python>.
All checkouts and Bazel output bases share it; a changed lock gets a new one.
KD_TORCH_INDEX, if set, is an additional index for the unhashed file. Uses only
the standard library.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv

_NAME = re.compile(r'^([A-Za-z0-9._-]+)==', re.MULTILINE)
_SECONDS_BETWEEN_LINES = 20


def main(argv):
  args = _parse(argv)
  home = _home(args)
  python = os.path.join(home, 'bin', 'python')
  os.makedirs(os.path.dirname(home), exist_ok=True)
  with open(f'{home}.guard', 'w', encoding='utf-8') as guard:
    fcntl.flock(guard, fcntl.LOCK_EX)  # Another checkout may be creating it.
    if not (os.path.exists(f'{home}.done') and os.path.exists(python)):
      _make(args, home, python)
      with open(f'{home}.done', 'w', encoding='utf-8'):
        pass
  print(python)


def _parse(argv):
  parser = argparse.ArgumentParser()
  parser.add_argument('lock')
  parser.add_argument('folder')
  parser.add_argument('--source_only', action='append', default=[])
  parser.add_argument('--unhashed')
  return parser.parse_args(argv)


def _home(args):
  digest = hashlib.sha256(f'{sys.version} {sys.prefix}'.encode())
  for path in filter(None, (args.lock, args.unhashed)):
    with open(path, 'rb') as f:
      digest.update(f.read())
  folder = os.path.abspath(os.path.expanduser(args.folder))
  return os.path.join(folder, digest.hexdigest()[:12])


def _make(args, home, python):
  with open(args.lock, encoding='utf-8') as f:
    wheels, sources = split(f.read(), args.source_only)
  count = len(_NAME.findall(wheels + sources))
  _say(
    f'setting up {count} packages of {os.path.basename(args.lock)} in {home}: '
    'downloads and unpacks up to 2 GB, so it takes some minutes, once for '
    'each version of that file'
  )
  begin = time.monotonic()
  shutil.rmtree(home, ignore_errors=True)
  venv.create(home, with_pip=True, symlinks=True)
  _install(python, wheels, ['--only-binary=:all:'])
  if sources:
    # With build isolation pip would download the newest setuptools, unhashed.
    # The lock's version has just been installed.
    _install(python, sources, ['--no-build-isolation', '--use-pep517'])
  if args.unhashed:
    index = os.environ.get('KD_TORCH_INDEX')
    more = [f'--extra-index-url={index}'] if index else []
    _pip(python, ['--only-binary=:all:', *more, '-r', args.unhashed])
  _say(f'done in {time.monotonic() - begin:.0f} seconds')


def split(lock, source_only):
  """Splits a lock into packages with wheels and packages built from source.

  Args:
    lock: text of a requirements file with one `name==version` block per
      package.
    source_only: names of the packages without wheels.

  Returns:
    The texts of two requirements files; the second is '' if nothing is built.

  Raises:
    SystemExit: a name in source_only is not in the lock.
  """
  missing = sorted(set(source_only) - set(_NAME.findall(lock)))
  if missing:
    raise SystemExit(f'make_venv: not in the lock: {", ".join(missing)}')
  starts = [m.start() for m in _NAME.finditer(lock)] + [len(lock)]
  blocks = [lock[a:b] for a, b in zip(starts, starts[1:], strict=False)]
  parts = {True: '', False: ''}
  for block in blocks:
    parts[_NAME.match(block)[1] in source_only] += block
  return parts[False], parts[True]


def _install(python, requirements, options):
  with tempfile.NamedTemporaryFile('w', suffix='.txt', encoding='utf-8') as f:
    f.write(requirements)
    f.flush()
    _pip(python, ['--require-hashes', '--no-deps', *options, '-r', f.name])


def _pip(python, options):
  """Runs pip install and prints its progress, and its messages if it fails."""
  command = [python, '-m', 'pip', '--no-input', '--disable-pip-version-check']
  command += ['install', '--progress-bar=off', *options]
  messages = []
  told = time.monotonic()
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  ) as pip:
    for line in pip.stdout:
      messages.append(line)
      if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
        told = time.monotonic()
        _say(line.strip()[:100])
  if pip.returncode:
    sys.stderr.write(''.join(messages[-30:]))
    raise SystemExit(f'make_venv: pip failed with {pip.returncode}')


def _say(text):
  print(f'bazelw: {text}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
