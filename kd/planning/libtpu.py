"""Locates libtpu, the TPU compiler, which has its own lock file."""

import importlib.util
import os
import subprocess

from kd.core import errors

_VARIABLE = 'KD_LIBTPU_PYTHON'
_HOW = (
  './bazelw run //:plan, which installs it; or pip install kd[plan], or '
  '-r requirements_libtpu.lock, in this environment; or '
  f'{_VARIABLE}=$(python tools/make_venv.py requirements_libtpu.lock '
  '~/.cache/kd/venvs)'
)


def packages() -> str:
  """Returns the folder of libtpu, or '' if this environment has it.

  Bazel builds an environment with libtpu for the targets that list it in their
  data. Without Bazel, KD_LIBTPU_PYTHON is the Python of such an environment.

  Raises:
    ConfigError: libtpu is missing; the message has the install commands.
  """
  spec = importlib.util.find_spec('libtpu')
  if spec is not None and spec.origin:  # A stray folder has no origin.
    return ''
  python = os.environ.get(_VARIABLE) or _bazel_python()
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


def _bazel_python():
  """Returns the Python of Bazel's libtpu repository, or ''."""
  # Bazel puts external repositories next to this one.
  here = os.path.dirname(os.path.abspath(__file__))
  file = os.path.join(here, '..', '..', '..', 'libtpu', 'python')
  if not os.path.isfile(file):
    return ''
  with open(file, encoding='utf-8') as f:
    return f.read().strip()


def environment(root: str, folder: str) -> dict[str, str]:
  """Returns the environment variables for compiling without TPUs.

  Args:
    root: the folder that contains this project's packages.
    folder: the folder from `packages`.
  """
  path = (root, folder, os.environ.get('PYTHONPATH', ''))
  return {
    **os.environ,
    'PYTHONPATH': os.pathsep.join(filter(None, path)),
    # Does not lock a TPU of this machine.
    'JAX_PLATFORMS': 'cpu',
    # Flags for this machine's devices do not apply to a TPU.
    'XLA_FLAGS': '',
    # A cache hit would skip the compilation and its dump.
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'TPU_SKIP_MDS_QUERY': '1',
    # By default libtpu allows one process, which may be a training run.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  }
