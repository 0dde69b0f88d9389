"""Detects dead processes of a run and ends the others.

Each process writes a heartbeat once a second to the key-value store of jax's
coordination service, which runs in process 0. Process 0 reads the heartbeats of
all processes, the others read that of process 0. A process that detects a dead
one, or that ends with an error, writes a message to the store, and all
processes exit with that message.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import sys
import threading
import time
from typing import Any

from kd.core import errors

_BEAT_S = 1.0
MARGIN_S = 5 * _BEAT_S  # possible delay of a heartbeat
# Longest time that process 0, whose store contains the message, waits for the
# others to read it.
_READ_S = 20.0
_ALIVE, _FIRST, _LEFT = 'kd/alive', 'kd/first', 'kd/left'
_END = f'{_FIRST}/end'


def exit_now(code: int, message: str) -> None:
  """Prints an error and exits immediately, from any thread."""
  _print(message)
  os._exit(code)


def _print(message):
  # Bypasses Python's buffers, which the main thread may have locked.
  os.write(sys.stderr.fileno(), f'kd: error: {message}\n'.encode())


class LostProcessError(errors.KdError):
  """A process of the run has died or has not started: rerun the command."""

  exit_code = errors.PreemptedError.exit_code


class Watch:
  """Sends this process's heartbeats and exits when another process is dead."""

  def __init__(
    self,
    client: Any,
    index: int,
    count: int,
    dead_after_s: float,
    slow_after_s: float,
  ):
    """Initializes the watch, which `start` starts.

    Args:
      client: jax's client of the coordination service.
      index: index of this process.
      count: number of processes.
      dead_after_s: seconds without a heartbeat after which a process counts as
        dead.
      slow_after_s: seconds after which process 0 reports a process that the
        others wait for.
    """
    self._client, self._index, self._count = client, index, count
    self._dead_after_s, self._slow_after_s = dead_after_s, slow_after_s
    self._work: tuple[str, float] | None = None
    self._stopped = threading.Event()
    now = time.monotonic()
    self._answered = now
    # The last heartbeat of each watched process, and when it was first read.
    watched = range(1, count) if index == 0 else (0,)
    self._last_seen: dict[int, tuple[str | None, float]] = dict.fromkeys(
      watched, (None, now)
    )
    # By process, the waiting time in seconds that was last reported.
    self._reported_s: dict[int, float] = {}

  def start(self) -> None:
    """Starts the watch."""
    # Two threads: a call to a dead machine can block for minutes.
    for name, what in (('beat', self._beat), ('silence', self._silence)):
      threading.Thread(target=what, name=name, daemon=True).start()

  def stop(self) -> None:
    self._stopped.set()

  @contextlib.contextmanager
  def working_on(self, what: str) -> Iterator[None]:
    """Marks a block of work that the other processes may have to wait for."""
    self._work = what, time.monotonic()
    try:
      yield
    finally:
      self._work = None

  def post(self, code: int, message: str) -> None:
    """Tells all processes to exit; only the first message is kept."""
    # Fails if a message was posted before, or the service is gone.
    with contextlib.suppress(Exception):
      self._client.key_value_set(
        _END, json.dumps({'code': code, 'message': message})
      )

  def _beat(self):
    number = 0
    while not self._stopped.wait(_BEAT_S):
      number += 1
      try:
        self._send(number)
        values = dict(self._client.key_value_dir_get(_FIRST))
        if self._index == 0:
          values |= dict(self._client.key_value_dir_get(_ALIVE))
      except Exception:  # No answer: `_silence` measures for how long.
        continue
      self._answered = time.monotonic()
      if _END in values:
        self._end(**json.loads(values.pop(_END)))
      self._check({int(k.rpartition('/')[2]): v for k, v in values.items()})

  def _send(self, number):
    work, value = self._work, {'beat': number}
    if work:
      what, since = work
      value |= {'doing': what, 'for_s': time.monotonic() - since}
    folder = _ALIVE if self._index else _FIRST
    self._client.key_value_set(
      f'{folder}/{self._index}', json.dumps(value), allow_overwrite=True
    )

  def _check(self, values: Mapping[int, str]):
    now = time.monotonic()
    for i, (before, since) in self._last_seen.items():
      value = values.get(i)
      if value != before:
        self._last_seen[i] = value, now
      elif now - since > self._dead_after_s:
        self._lost(i, now - since)
    if self._index == 0:
      for i, value in values.items():
        self._report_slow(i, json.loads(value))

  def _report_slow(self, index, value):
    what, waited = value.get('doing'), value.get('for_s', 0.0)
    if what is None or waited < self._slow_after_s:
      self._reported_s[index] = 0.0
    elif waited >= 2 * self._reported_s.get(index, 0.0):
      self._reported_s[index] = waited
      print(
        f'waiting for {self._name(index)}: {what} ({waited:.0f} s)',
        flush=True,
      )

  def _silence(self):
    """Exits if the service has not answered for too long."""
    while not self._stopped.wait(_BEAT_S):
      silent = time.monotonic() - self._answered
      if silent > self._dead_after_s:
        # Without `post`, which would block.
        exit_now(LostProcessError.exit_code, self._silence_message(0, silent))

  def _name(self, index):
    return f'process {index} of {self._count}'

  def _lost(self, index, seconds):
    message = self._silence_message(index, seconds)
    self.post(LostProcessError.exit_code, message)
    self._end(LostProcessError.exit_code, message)

  def _silence_message(self, index, seconds):
    return (
      f'{self._name(index)} has died or cannot be reached: no heartbeat for '
      f'{seconds:.0f} s (processes.dead_after_s); run the same command on all '
      'of them to resume'
    )

  def _end(self, code, message):
    if not self._stopped.is_set():
      self.leave(code, message)

  def leave(self, code: int, message: str) -> None:
    """Prints the message and exits; process 0 once the others have read it."""
    self._stopped.set()
    _print(message)
    # If the service is gone, no process waits.
    with contextlib.suppress(Exception):
      if self._index == 0:
        self._wait_for_others()
      else:
        self._client.key_value_set(f'{_LEFT}/{self._index}', '')
    os._exit(code)

  def _wait_for_others(self):
    """Waits briefly until all live processes have left."""
    began = time.monotonic()
    living = {
      index
      for index, (_, since) in self._last_seen.items()
      if began - since < self._dead_after_s
    }
    while time.monotonic() - began < _READ_S:
      left = self._client.key_value_dir_get(_LEFT)
      if living <= {int(key.rpartition('/')[2]) for key, _ in left}:
        return
      time.sleep(_BEAT_S / 4)
