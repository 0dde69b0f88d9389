"""Runs programs that compile for TPUs in the compiler's environment."""

from collections.abc import Mapping
import json
import subprocess
from typing import Any

from benchmarks import alternate
from kd.core import errors
from kd.planning import libtpu


def need() -> None:
  """Raises ConfigError if the environment `libtpu` is missing."""
  try:
    libtpu.packages()
  except errors.ConfigError as e:
    raise e.at('KD_LIBTPU_PYTHON') from e


def run(python: str, module: str, case: Mapping[str, Any]) -> Any:
  """Returns the output of a compiling program; may take many minutes.

  Args:
    python: path of the interpreter.
    module: name of the program's module.
    case: argument of the program.
  """
  done = subprocess.run(
    [python, '-m', module, json.dumps(case)],
    check=True,
    text=True,
    stdout=subprocess.PIPE,
    env=libtpu.environment(alternate.ROOT, libtpu.packages()),
  )
  return json.loads(done.stdout.splitlines()[-1])
