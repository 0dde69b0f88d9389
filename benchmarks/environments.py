"""Finds the Python environments of other projects, separate from kd's own."""

import os
import subprocess

from kd.core import errors

# Options of tools/make_venv.py by environment, as in WORKSPACE.
_OPTIONS = {
  'oracles': (
    '--source_only=rouge-score --source_only=sqlitedict '
    '--source_only=word2number --unhashed=requirements_torch.in'
  ),
  'peers_trl': '--unhashed=requirements_torch.in',
  'peers_tunix': '--source_only=promise',
}


def variable(name: str) -> str:
  """Returns the variable with the path of an environment's Python."""
  return f'KD_{name.upper()}_PYTHON'


def how(name: str) -> str:
  """Returns instructions for installing an environment, for error messages."""
  return (
    'created by ./bazelw run //benchmarks:...; or '
    f'{variable(name)}=$(python tools/make_venv.py requirements_{name}.lock '
    f'~/.cache/kd/venvs {_OPTIONS[name]})'
  )


def python(name: str) -> str:
  """Returns the path of an environment's interpreter.

  Bazel builds the environment for targets that have it in their data. Without
  Bazel, KD_<NAME>_PYTHON is the path.

  Raises:
    ConfigError: there is no such environment. The message contains the command
      that creates it.
  """
  named = os.environ.get(variable(name))
  if named:
    return named
  # Bazel puts external repositories next to this one.
  here = os.path.dirname(os.path.abspath(__file__))
  file = os.path.join(here, '..', '..', name, 'python')
  if os.path.isfile(file):
    with open(file, encoding='utf-8') as f:
      return f.read().strip()
  raise errors.ConfigError(variable(name), 'not set', legal=how(name))


def ask(name: str, script: str) -> str:
  """Returns the output of a script run by an environment's Python."""
  done = subprocess.run(
    [python(name), '-c', script], check=True, text=True, stdout=subprocess.PIPE
  )
  return done.stdout.strip()
