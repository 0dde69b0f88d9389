"""Where other projects' environments are: never the one of the product."""

import os
import subprocess

from kd.core import errors

# By name: the options that tools/make_venv.py makes it with, as in WORKSPACE.
_OPTIONS = {
  'oracles': (
    '--source_only=rouge-score --source_only=sqlitedict '
    '--source_only=word2number --unhashed=requirements_torch.in'
  ),
  'peers_trl': '--unhashed=requirements_torch.in',
  'peers_tunix': '--source_only=promise',
}


def variable(name: str) -> str:
  """Returns the variable that names an environment's Python."""
  return f'KD_{name.upper()}_PYTHON'


def how(name: str) -> str:
  """Returns the ways to get an environment, for messages."""
  return (
    './bazelw run //benchmarks:..., which makes it; or '
    f'{variable(name)}=$(python tools/make_venv.py requirements_{name}.lock '
    f'~/.cache/kd/venvs {_OPTIONS[name]})'
  )


def python(name: str) -> str:
  """Returns the interpreter of an environment.

  Bazel makes it for the targets that have it in their data; without Bazel,
  KD_<NAME>_PYTHON says where it is.

  Raises:
    ConfigError: it is not there; says the command that makes it.
  """
  named = os.environ.get(variable(name))
  if named:
    return named
  # Bazel's folder of external repositories is next to that of this one.
  here = os.path.dirname(os.path.abspath(__file__))
  file = os.path.join(here, '..', '..', name, 'python')
  if os.path.isfile(file):
    with open(file, encoding='utf-8') as f:
      return f.read().strip()
  raise errors.ConfigError(variable(name), 'not set', legal=how(name))


def ask(name: str, script: str) -> str:
  """Returns what a script prints that an environment's Python runs."""
  done = subprocess.run(
    [python(name), '-c', script], check=True, text=True, stdout=subprocess.PIPE
  )
  return done.stdout.strip()
