"""Connects the processes of a run through jax.distributed."""

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
from jax._src import distributed  # The only access to the key-value store.

from kd.core import errors
from kd.partitioning import liveness
from kd.partitioning import membership

T = TypeVar('T')

# jax aborts a process after this time; the watch acts much earlier.
_JAX_DEAD_AFTER_S = 3600
_NEVER_S = 10 * 24 * 3600


class _Joined:
  """The state of this process in a run of several processes."""

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
  """Joins the other processes of the run, if there are any.

  Must be called before any use of devices. Coordinator, count and index come
  from the config, or else from $JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and
  $JAX_PROCESS_ID, or else from the metadata of a Cloud TPU. If none of these is
  set, the run has only this process.

  Args:
    settings: the config's `processes`, checked.

  Raises:
    ConfigError: see membership.check.
    SystemExit: 42, if not all processes have joined in time.
  """
  global _joined
  membership.check(settings)
  resolved = membership.find(settings)
  if resolved['coordinator'] is None and not membership.on_tpu():
    return
  # jax's handling of preemption would replace that of the training loop.
  jax.config.update('jax_enable_preemption_service', False)
  _on_sigabrt(_explain_abort)
  try:
    with _limit(settings['start_timeout_s'], resolved['count']):
      jax.distributed.initialize(
        resolved['coordinator'],
        resolved['count'],
        resolved['index'],
        # The limit above ends first, with a better message.
        initialization_timeout=int(2 * settings['start_timeout_s']) + 60,
        heartbeat_timeout_seconds=_JAX_DEAD_AFTER_S,
        shutdown_timeout_seconds=_JAX_DEAD_AFTER_S,
      )
  except ValueError:
    # jax raises this on a TPU without a metadata server.
    if resolved['coordinator'] is not None:
      raise
    membership.check_alone(resolved)
    _on_sigabrt(None)
    return
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  _joined = _Joined(settings, distributed.global_state.coordinator_address)
  _joined.watch.start()


@contextlib.contextmanager
def _limit(seconds: float, count: int | None) -> Iterator[None]:
  """Exits with 42 and a message if the block takes longer than `seconds`."""
  there = threading.Event()

  def wait():
    if not there.wait(seconds):
      expected = f'{count} processes' if count else 'all processes'
      liveness.exit_now(
        liveness.LostProcessError.exit_code,
        f'expected {expected}, but after {seconds:g} s '
        '(processes.start_timeout_s) not all have joined: start the command '
        'for every one',
      )

  threading.Thread(target=wait, name='start', daemon=True).start()
  try:
    yield
  finally:
    there.set()


def _on_sigabrt(handler: Any) -> None:
  """Sets the C signal handler, as Python's would not run; None: the default."""
  signal_of_c = ctypes.CDLL(None).signal
  signal_of_c.restype = ctypes.c_void_p
  signal_of_c(signal.SIGABRT, handler)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _explain_abort(number):
  """Exits with a message where jax aborts because the coordinator is gone.

  Runs in the aborting thread. If it returns, the abort continues.
  """
  del number
  if _joined is None:
    liveness.exit_now(
      liveness.LostProcessError.exit_code,
      'this process could not join the run (see the error of jax above): start '
      'the command for every process',
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
      'that connects the others; run the same command on all of them to resume',
    )


def from_first(call: Callable[[], Any]) -> Any:
  """Calls `call` in process 0 and returns its result in all processes.

  All processes must call this in the same order. An error in process 0 ends
  them all with its message.

  Args:
    call: returns a value that can be converted to JSON.
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
  """Returns the values of all processes, by process index, without devices.

  Args:
    name: name of a series of exchanges.
    number: number of this exchange; all processes use the same order.
    value: value of this process, which can be converted to JSON.
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
  # All processes have reached this exchange, so they have read the last one.
  last = _joined.gathered.get(name)
  if last is not None:
    client.key_value_delete(f'{folder}/{last}/{jax.process_index()}')
  _joined.gathered[name] = number
  return values


def first_then_all(what: str, call: Callable[[], T]) -> T:
  """Calls `call` in process 0 first, then in the others.

  Args:
    what: description of the work, for the message if the others wait long.
    call: creates files if they do not exist, and reads them.

  Returns:
    The result of `call` in this process.
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
  """Marks a block; process 0 reports this process if the block takes long.

  Args:
    what: description of the work, for the message.
  """
  if _joined is None:
    yield
    return
  with _joined.watch.working_on(what):
    yield


def finish() -> None:
  """Disconnects once all processes have called this."""
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

  The error may be a consequence of another process's death. Waits long enough
  for the watch to detect it, which ends this process with its own message.

  Args:
    error: the error that ended this process; printed with its traceback if it
      is not a KdError.
    code: exit code.

  Returns:
    Only if the run has a single process.
  """
  if _joined is None:
    return
  if isinstance(error, errors.PreemptedError | errors.NonFiniteError):
    # All processes raise these. Waits so that none ends another that is still
    # saving its last checkpoint.
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
  """Ends all processes of the run; returns if it has a single process."""
  if _joined is None:
    return
  where = f'process {jax.process_index()} of {jax.process_count()}'
  _joined.watch.post(code, f'{where}: {message}')
  _joined.watch.leave(code, message)
