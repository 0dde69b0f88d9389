"""Runs one program in several processes, through jax.distributed."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import ctypes
import itertools
import json
import signal
import socket
import threading
import time
import traceback
from typing import Any, TypeVar

import jax
from jax._src import distributed  # The only way to its key-value store.

from kd.core import errors
from kd.partitioning import liveness
from kd.partitioning import membership

T = TypeVar('T')

# jax's own limit, far beyond the watch's: jax aborts a process at it.
_JAX_DEAD_AFTER_S = 3600
_NEVER_S = 10 * 24 * 3600


class _Joined:
  """This process's place in a run of several."""

  def __init__(self, settings: Mapping[str, Any], address: str):
    self.client = distributed.global_state.client
    self.address, self.numbers = address, itertools.count()
    self.gathered: dict[str, int] = {}
    self.dead_after_s = settings['dead_after_s']
    self.watch = liveness.Watch(
      self.client,
      jax.process_index(),
      jax.process_count(),
      self.dead_after_s,
      settings['slow_after_s'],
    )


_joined: _Joined | None = None


def start(settings: Mapping[str, Any]) -> None:
  """Joins the other processes of the run, if the run has any.

  Before anything asks for devices. Coordinator, count and index come from the
  config, or else from $JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and
  $JAX_PROCESS_ID, or else on a Cloud TPU from its metadata; where none of these
  says anything, the run is this process alone.

  Args:
    settings: the config's `processes`, checked.

  Raises:
    ConfigError: see membership.check.
    SystemExit: 42, not all came in time.
  """
  global _joined
  membership.check(settings)
  found = membership.find(settings)
  if found['coordinator'] is None and not membership.on_tpu():
    return
  # jax's notice of a preemption would take the place of the loop's own.
  jax.config.update('jax_enable_preemption_service', False)
  _on_sigabrt(_explain_abort)
  try:
    with _limit(settings['start_timeout_s'], found['count']):
      jax.distributed.initialize(
        found['coordinator'],
        found['count'],
        found['index'],
        # The limit above comes first, and says more.
        initialization_timeout=int(2 * settings['start_timeout_s']) + 60,
        heartbeat_timeout_seconds=_JAX_DEAD_AFTER_S,
        shutdown_timeout_seconds=_JAX_DEAD_AFTER_S,
      )
  except ValueError:
    # What jax raises on a TPU that no metadata server knows of.
    if found['coordinator'] is not None:
      raise
    membership.check_alone(found)
    _on_sigabrt(None)
    return
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  _joined = _Joined(settings, distributed.global_state.coordinator_address)
  _joined.watch.start()


@contextlib.contextmanager
def _limit(seconds: float, count: int | None) -> Iterator[None]:
  """Exits with 42 and a message if what is within takes longer."""
  there = threading.Event()

  def wait():
    if not there.wait(seconds):
      expected = f'{count} processes' if count else 'all processes'
      liveness.exit_now(
        liveness.LostProcessError.exit_code,
        f'expected {expected}, and after {seconds:g} s '
        '(processes.start_timeout_s) not all have come: start the command on '
        'every one',
      )

  threading.Thread(target=wait, name='start', daemon=True).start()
  try:
    yield
  finally:
    there.set()


def _on_sigabrt(handler: Any) -> None:
  """Sets C's handler, for Python's own never runs; None: the default one."""
  signal_of_c = ctypes.CDLL(None).signal
  signal_of_c.restype = ctypes.c_void_p
  signal_of_c(signal.SIGABRT, handler)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _explain_abort(number):
  """Makes an exit of how jax aborts a process whose coordinator is gone.

  Called in the thread that aborts; when this returns, the abort continues.
  """
  del number
  if _joined is None:
    liveness.exit_now(
      liveness.LostProcessError.exit_code,
      'the run could not be joined, for the reason that jax gives above: start '
      'the command on every process',
    )
  if jax.process_index() == 0:
    return
  host, _, port = _joined.address.rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), 5.0).close()
  except OSError:
    liveness.exit_now(
      liveness.LostProcessError.exit_code,
      f'process 0 of {jax.process_count()} has died, and with it the service '
      'that connects the others; run the same command on all to resume',
    )


def from_first(call: Callable[[], Any]) -> Any:
  """Returns what `call` returns in process 0; the others wait for it.

  All processes must call this in the same order. An error in process 0 ends
  them all with its message.

  Args:
    call: returns what JSON can hold.
  """
  if _joined is None:
    return call()
  key = f'kd/shared/{next(_joined.numbers)}'
  if jax.process_index() == 0:
    value = call()
    _joined.client.key_value_set(key, json.dumps(value))
    return value
  return json.loads(_joined.client.blocking_key_value_get(key, _NEVER_S * 1000))


def gather(name: str, number: int, value: Any) -> list[Any]:
  """Returns what every process gives, in their order; no device takes part.

  Args:
    name: of a series of exchanges.
    number: of this one, which all processes come to in the same order.
    value: of this process; JSON can hold it.
  """
  if _joined is None:
    return [value]
  client, folder = _joined.client, f'kd/gathered/{name}'
  key = f'{folder}/{number}/{{}}'.format
  client.key_value_set(key(jax.process_index()), json.dumps(value))
  values = [
    json.loads(client.blocking_key_value_get(key(i), _NEVER_S * 1000))
    for i in range(jax.process_count())
  ]
  # All have come to this exchange, so all have read the one before it.
  last = _joined.gathered.get(name)
  if last is not None:
    client.key_value_delete(f'{folder}/{last}/{jax.process_index()}')
  _joined.gathered[name] = number
  return values


def first_then_all(what: str, call: Callable[[], T]) -> T:
  """Returns what `call` returns, called in process 0 first.

  Args:
    what: is made, as the message says it if the others wait for long.
    call: makes files once, and reads them.
  """
  if jax.process_index() == 0:
    with waited_for(what):
      value = call()
    from_first(lambda: None)
    return value
  from_first(lambda: None)
  with waited_for(what):
    return call()


@contextlib.contextmanager
def waited_for(what: str) -> Iterator[None]:
  """Within it, process 0 names this process if it takes long.

  Args:
    what: is done, as the message says it.
  """
  if _joined is None:
    yield
    return
  with _joined.watch.doing(what):
    yield


def finish() -> None:
  """Leaves in order, once all processes have come to this point."""
  global _joined
  if _joined is None:
    return
  _joined.client.wait_at_barrier('kd/finish', _NEVER_S * 1000)
  _joined.watch.stop()
  jax.distributed.shutdown()
  _on_sigabrt(None)
  _joined = None


def fail(error: BaseException, code: int) -> None:
  """Ends all processes of the run because of an error in this one.

  What looks like an error may be another process's death: that is waited for,
  and ends this process with its own message.

  Args:
    error: what ended this process; one that is not for the user is printed with
      its traceback.
    code: to exit with.

  Returns:
    Only if this process is the run.
  """
  if _joined is None:
    return
  if isinstance(error, errors.PreemptedError | errors.NonFiniteError):
    # All have it: none may end another that is still at its last save.
    with contextlib.suppress(Exception):
      _joined.client.wait_at_barrier(
        'kd/fail', int(1000 * (_joined.dead_after_s + liveness.MARGIN_S))
      )
  elif not isinstance(error, errors.KdError) or isinstance(
    error.__cause__, ValueError | RuntimeError
  ):
    time.sleep(_joined.dead_after_s + liveness.MARGIN_S)
  if not isinstance(error, errors.KdError):
    traceback.print_exception(error)
  leave(code, str(error))


def leave(code: int, message: str) -> None:
  """Exits now and tells the others to; returns if this process is the run."""
  if _joined is None:
    return
  where = f'process {jax.process_index()} of {jax.process_count()}'
  _joined.watch.post(code, f'{where}: {message}')
  _joined.watch.leave(code, message)
