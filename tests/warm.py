"""Starts kd.main in forks of a process that has imported it already.

What takes seconds is imported once; nothing that a process does is left out:
a fork has no devices yet, and ends as any other interpreter.

  python -m tests.warm

reads a line of JSON for each process to start: `arguments` of kd.main, `faults`
(see tests/fault_driver.py), `env`, `out` and `err`, the files that get its
output. Prints its number; its exit code, or minus the signal, goes to the file
`code`.
"""

from collections.abc import Mapping, Sequence
import gc
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
  """A process that Warm started, as subprocess.Popen has it."""

  def __init__(self, pid: int, code: str, output: str):
    self._pid, self._code, self._output = pid, code, output

  def text(self, stream: str) -> str:
    """Returns what it has written to 'out' or 'err'."""
    with open(f'{self._output}.{stream}', encoding='utf-8') as f:
      return f.read()

  def poll(self) -> int | None:
    """Returns the exit code, or None while it runs."""
    if not os.path.exists(self._code):
      return None
    with open(self._code, encoding='utf-8') as f:
      return int(f.read())

  def wait(self, timeout_s: float) -> int:
    """Waits until it has ended; returns the exit code."""
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
  """The process that others are forks of."""

  def __init__(self, env: Mapping[str, str], folder: str | None = None):
    """Starts it.

    Args:
      env: its variables: JAX reads some when it is imported.
      folder: the project's folder; None for the current one.
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
      arguments: its command line.
      faults: what goes wrong, and its arguments.
      env: variables that differ from those of Warm; None removes one.
      output: .out and .err of this name get what it says.

    Raises:
      RuntimeError: the process that would be forked has ended.
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
    for stream in ('out', 'err'):  # So that they can be read at once.
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
    """Ends it, and every process that it started."""
    self._server.stdin.close()
    self._server.wait()


def _serve() -> dict[str, Any] | None:
  """Forks for each request; returns it there, and None at the end."""
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
  """Writes down the codes of those that have ended."""
  for pid, file in list(codes.items()):
    ended, status = os.waitpid(pid, options)
    if ended:
      with open(f'{file}.part', 'w', encoding='utf-8') as f:
        f.write(str(os.waitstatus_to_exitcode(status)))
      os.rename(f'{file}.part', file)
      del codes[pid]


def set_variables(changes: Mapping[str, str | None]) -> None:
  """Sets variables of this process; None removes one."""
  for name, value in changes.items():
    if value is None:
      os.environ.pop(name, None)
    else:
      os.environ[name] = value


def _become(request):
  """Runs kd.main as the request says, in a fork."""
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
  # The collector of a fork leaves alone what all have imported.
  gc.freeze()
  request = _serve()
  if request:
    _become(request)


if __name__ == '__main__':
  main()
