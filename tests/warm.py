"""Starts kd.main in forks of a process that has already imported it.

Slow imports happen once. Otherwise a fork behaves like a new process: it has no
devices yet and ends like any other interpreter.

  python -m tests.warm

Reads a line of JSON for each process to start: `arguments` of kd.main, `faults`
(see fault_driver), `env`, and the output files `out` and `err`. Prints its
process id. Its exit code, or minus the signal, is written to the file `code`.
"""

from collections.abc import Mapping, Sequence
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

_LOOK_S = 0.05


class Process:
  """A process started by Warm, with the interface of subprocess.Popen."""

  def __init__(self, pid: int, code: str, output: str):
    self._pid, self._code, self._output = pid, code, output

  def text(self, stream: str) -> str:
    """Returns the output of the process to 'out' or 'err'."""
    with open(f'{self._output}.{stream}', encoding='utf-8') as f:
      return f.read()

  def poll(self) -> int | None:
    """Returns the exit code, or None while it runs."""
    if not os.path.exists(self._code):
      return None
    with open(self._code, encoding='utf-8') as f:
      return int(f.read())

  def wait(self, timeout_s: float) -> int:
    """Waits until the process ends; returns its exit code."""
    end = time.monotonic() + timeout_s
    while (code := self.poll()) is None:
      if time.monotonic() > end:
        raise subprocess.TimeoutExpired(str(self._pid), timeout_s)
      time.sleep(_LOOK_S)
    return code

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self._pid, number)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)


class Warm:
  """The process that is forked to start others."""

  def __init__(self, env: Mapping[str, str], folder: str | None = None):
    """Starts the process.

    Args:
      env: environment variables, some of which JAX reads at import.
      folder: folder of the project; None for the current one.
    """
    self._server = subprocess.Popen(
      [sys.executable, '-m', 'tests.warm'],
      env=dict(env),
      cwd=folder,
      text=True,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    )
    self._started = 0

  def start(
    self,
    arguments: Sequence[str],
    faults: Mapping[str, Any],
    env: Mapping[str, str | None],
    output: str,
  ) -> Process:
    """Starts kd.main.

    Args:
      arguments: command-line arguments.
      faults: functions of fault_driver to call, with their arguments.
      env: variables that differ from those of Warm; None removes one.
      output: path of the output files without their extensions .out and .err.

    Raises:
      RuntimeError: the process to fork has ended.
    """
    self._started += 1
    code = f'{output}.{self._started}.code'
    request = {
      'arguments': list(arguments),
      'faults': dict(faults),
      'env': dict(env),
      'out': f'{output}.out',
      'err': f'{output}.err',
      'code': code,
    }
    for stream in ('out', 'err'):  # Created here so that readers find them.
      with open(request[stream], 'a', encoding='utf-8'):
        pass
    ended = RuntimeError('the process that would be forked has ended')
    try:
      print(json.dumps(request), file=self._server.stdin, flush=True)
    except BrokenPipeError as e:
      raise ended from e
    pid = self._server.stdout.readline()
    if not pid:
      raise ended
    return Process(int(pid), code, output)

  def close(self) -> None:
    """Ends the process and all its forks."""
    self._server.stdin.close()
    self._server.wait()


def _serve() -> dict[str, Any] | None:
  """Forks for each request; returns the request in a fork, None at the end."""
  requests = os.fdopen(os.dup(0), 'rb', buffering=0)
  codes: dict[int, str] = {}
  while True:
    if select.select([requests], [], [], _LOOK_S)[0]:
      line = requests.readline()
      if not line:
        break
      request = json.loads(line)
      pid = os.fork()
      if not pid:
        requests.close()
        return request
      codes[pid] = request['code']
      print(pid, flush=True)
    _reap(codes, os.WNOHANG)
  for pid in codes:
    os.kill(pid, signal.SIGKILL)
  _reap(codes, 0)
  return None


def _reap(codes, options):
  """Writes the exit codes of forks that have ended."""
  for pid, file in list(codes.items()):
    ended, status = os.waitpid(pid, options)
    if ended:
      with open(f'{file}.part', 'w', encoding='utf-8') as f:
        f.write(str(os.waitstatus_to_exitcode(status)))
      os.rename(f'{file}.part', file)
      del codes[pid]


def set_variables(changes: Mapping[str, str | None]) -> None:
  """Sets environment variables of this process; None removes one."""
  for name, value in changes.items():
    if value is None:
      os.environ.pop(name, None)
    else:
      os.environ[name] = value


def _become(request):
  """Runs kd.main for a request, in a fork."""
  null = os.open(os.devnull, os.O_RDONLY)
  os.dup2(null, 0)
  for stream, name in ((1, 'out'), (2, 'err')):
    os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND), stream)
  set_variables(request['env'])
  driver = importlib.import_module('tests.fault_driver')
  for name, arguments in request['faults'].items():
    getattr(driver, name)(**arguments)
  sys.argv = ['kd', *request['arguments']]
  importlib.import_module('kd.main').run()


def main() -> None:
  driver = importlib.import_module('tests.fault_driver')
  for name in driver.IMPORTED:
    importlib.import_module(name)
  driver.collect_rarely()
  request = _serve()
  if request:
    _become(request)


if __name__ == '__main__':
  main()
