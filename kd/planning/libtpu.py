"""Where the compiler of TPU programs is: a package with a lock of its own."""

import importlib.util
import os
import subprocess

from kd.core import errors

_VARIABLE = 'KD_LIBTPU_PYTHON'
_HOW = (
  './bazelw run //:plan, which installs it; or pip install -r '
  'requirements_libtpu.lock in this environment; or '
  f'{_VARIABLE}=$(python tools/make_venv.py requirements_libtpu.lock '
  '~/.cache/kd/venvs)'
)


def packages() -> str:
  """Returns the folder to look for libtpu in; '' if this environment has it.

  Bazel makes an environment for the targets that have it in their data; without
  Bazel, KD_LIBTPU_PYTHON names the Python of one.

  Raises:
    ConfigError: there is none; says the commands that install it.
  """
  found = importlib.util.find_spec('libtpu')
  if found is not None and found.origin:  # A stray folder has none.
    return ''
  python = os.environ.get(_VARIABLE) or _bazels()
  if not python:
    raise errors.ConfigError(
      '--mode=plan', 'libtpu, the compiler of TPU programs, is missing', _HOW
    )
  script = "import sysconfig; print(sysconfig.get_path('purelib'))"
  try:
    done = subprocess.run(
      [python, '-c', script], check=True, text=True, stdout=subprocess.PIPE
    )
  except (OSError, subprocess.CalledProcessError) as e:
    raise errors.ConfigError(_VARIABLE, f'{python!r} fails: {e}', _HOW) from e
  folder = done.stdout.strip()
  if not os.path.isdir(os.path.join(folder, 'libtpu')):
    raise errors.ConfigError(_VARIABLE, f'{folder!r} has no libtpu', _HOW)
  return folder


def _bazels():
  """Returns the Python that Bazel's repository of that name tells, or ''."""
  # Bazel's folder of external repositories is next to that of this one.
  here = os.path.dirname(os.path.abspath(__file__))
  file = os.path.join(here, '..', '..', '..', 'libtpu', 'python')
  if not os.path.isfile(file):
    return ''
  with open(file, encoding='utf-8') as f:
    return f.read().strip()


def environment(root: str, folder: str) -> dict[str, str]:
  """Variables of a process that compiles for TPUs that are not there.

  Args:
    root: the folder that this project's packages lie in.
    folder: from `packages`.
  """
  path = (root, folder, os.environ.get('PYTHONPATH', ''))
  return {
    **os.environ,
    'PYTHONPATH': os.pathsep.join(filter(None, path)),
    # Leaves a TPU of this machine free for others.
    'JAX_PLATFORMS': 'cpu',
    # A program from jax's cache would not be compiled, and so not be dumped.
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'TPU_SKIP_MDS_QUERY': '1',
    # By default one process holds libtpu: a training run of this machine.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  }
