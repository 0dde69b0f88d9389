"""Where other projects' environments are: never the one of the product."""

import os
import subprocess

# By name: the options that tools/make_venv.py makes it with, as in WORKSPACE.
_OPTIONS = {
  'peers_trl': '--unhashed=requirements_torch.in',
  'peers_tunix': '--source_only=promise',
}


def python(name: str) -> str:
  """The interpreter of an environment.

  Bazel makes it for the targets that have it in their data; without Bazel,
  KD_<NAME>_PYTHON says where it is.

  Raises:
    RuntimeError: it is not there; says the command that makes it.
  """
  variable = f'KD_{name.upper()}_PYTHON'
  if variable in os.environ:
    return os.environ[variable]
  # Bazel's folder of external repositories lies beside that of this one.
  here = os.path.dirname(os.path.abspath(__file__))
  file = os.path.join(here, '..', '..', name, 'python')
  if os.path.isfile(file):
    with open(file, encoding='utf-8') as f:
      return f.read().strip()
  raise RuntimeError(
    f'set {variable}: {variable}=$(python tools/make_venv.py '
    f'requirements_{name}.lock ~/.cache/kd/venvs {_OPTIONS[name]})'
  )


def ask(name: str, script: str) -> str:
  """What a script prints that an environment's Python runs."""
  done = subprocess.run(
    [python(name), '-c', script], check=True, text=True, stdout=subprocess.PIPE
  )
  return done.stdout.strip()
