"""Starts `kd serve` as a process for benchmarks of the server."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import re
import subprocess
import sys
import threading
from typing import Any

from benchmarks import alternate


@dataclasses.dataclass(frozen=True)
class Served:
  """A server that is ready.

  Attributes:
    host: address of the server.
    port: port that it listens on.
    parameters: number of parameters of its model.
  """

  host: str
  port: int
  parameters: int


@contextlib.contextmanager
def running(model: str, fields: Mapping[str, Any]) -> Iterator[Served]:
  """Runs a server until the block ends.

  Args:
    model: model to serve, under the name `own`.
    fields: values of config fields.

  Raises:
    RuntimeError: the server ended before it was ready.
  """
  process = subprocess.Popen(
    [sys.executable, '-m', 'kd', 'serve', f'own={model}']
    + ['--config.serve.port=0']
    + [f'--config.{key}={value}' for key, value in fields.items()],
    stdout=subprocess.PIPE,
    text=True,
    env=alternate.environment(),
  )
  try:
    yield _ready(process)
  finally:
    process.kill()
    process.wait()


def _ready(process: subprocess.Popen) -> Served:
  host, port, parameters = '', 0, 0
  for line in process.stdout:
    if match := re.match(r'own: ([\d,]+) parameters', line):
      parameters = int(match[1].replace(',', ''))
    if match := re.search(r'http://([\d.]+):(\d+)', line):
      host, port = match[1], int(match[2])
    if line.startswith('ready'):
      # Keep reading the server's output so that the pipe does not fill.
      threading.Thread(target=lambda: list(process.stdout), daemon=True).start()
      return Served(host, port, parameters)
  raise RuntimeError(f'kd serve ended with {process.wait()}')
