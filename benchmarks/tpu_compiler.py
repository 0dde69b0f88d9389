"""Runs programs that compile for TPUs, with the compiler's own environment."""

from collections.abc import Mapping
import json
import subprocess
from typing import Any

from benchmarks import alternate
from kd.core import errors
from kd.planning import libtpu


def need() -> None:
  """Raises ConfigError without the environment `libtpu`."""
  try:
    libtpu.packages()
  except errors.ConfigError as e:
    raise e.at('KD_LIBTPU_PYTHON') from e


def run(python: str, module: str, case: Mapping[str, Any]) -> Any:
  """Returns what a program that compiles prints; may take many minutes.

  Args:
    python: its interpreter.
    module: its name.
    case: its argument.
  """
  done = subprocess.run(
    [python, '-m', module, json.dumps(case)],
    check=True,
    text=True,
    stdout=subprocess.PIPE,
    env=libtpu.environment(alternate.ROOT, libtpu.packages()),
  )
  return json.loads(done.stdout.splitlines()[-1])
