"""Watches whether the other processes of a run are alive.

Each process says once a second that it lives, in the key-value store of jax's
coordination service, which runs in process 0. Process 0 hears all of them, the
others hear process 0. Whoever finds one dead, or ends with an error itself,
writes that down there, and everyone ends with that message.
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
MARGIN_S = 5 * _BEAT_S  # that a sign of life may be late
# That process 0, which holds why the run ends, waits until all have read it.
_READ_S = 20.0
_ALIVE, _FIRST, _LEFT = 'kd/alive', 'kd/first', 'kd/left'
_END = f'{_FIRST}/end'


def exit_now(code: int, message: str) -> None:
  """Prints and exits, from any thread."""
  _print(message)
  os._exit(code)


def _print(message):
  # Past Python's buffers: the main thread may hold them.
  os.write(sys.stderr.fileno(), f'kd: error: {message}\n'.encode())


class LostProcessError(errors.KdError):
  """A process of the run has died or never came: start the run again."""

  exit_code = errors.PreemptedError.exit_code


class Watch:
  """Says that this process lives, and ends it when another does not."""

  def __init__(
    self,
    client: Any,
    index: int,
    count: int,
    dead_after_s: float,
    slow_after_s: float,
  ):
    """Prepares; `start` begins.

    Args:
      client: jax's client of the coordination service.
      index: this process's.
      count: of processes.
      dead_after_s: seconds of silence after which a process counts as dead.
      slow_after_s: seconds after which process 0 names one that it waits for.
    """
    self._client, self._index, self._count = client, index, count
    self._dead_after_s, self._slow_after_s = dead_after_s, slow_after_s
    self._doing: tuple[str, float] | None = None
    self._stopped = threading.Event()
    now = time.monotonic()
    self._answered = now
    # What was last heard of each, and when it was first heard.
    hears = range(1, count) if index == 0 else (0,)
    self._heard: dict[int, tuple[str | None, float]] = dict.fromkeys(
      hears, (None, now)
    )
    # Seconds at which a process that is slow was last named.
    self._told: dict[int, float] = {}

  def start(self) -> None:
    """Starts the watch."""
    # Two: a call to a machine that is gone can hang for minutes.
    for name, what in (('beat', self._beat), ('silence', self._silence)):
      threading.Thread(target=what, name=name, daemon=True).start()

  def stop(self) -> None:
    self._stopped.set()

  @contextlib.contextmanager
  def doing(self, what: str) -> Iterator[None]:
    """Within it, this process does what all others may have to wait for."""
    self._doing = what, time.monotonic()
    try:
      yield
    finally:
      self._doing = None

  def post(self, code: int, message: str) -> None:
    """Tells all processes to end; the first message is the one that counts."""
    with contextlib.suppress(Exception):  # Written before, or nobody hears.
      self._client.key_value_set(
        _END, json.dumps({'code': code, 'message': message})
      )

  def _beat(self):
    number = 0
    while not self._stopped.wait(_BEAT_S):
      number += 1
      try:
        self._say(number)
        heard = dict(self._client.key_value_dir_get(_FIRST))
        if self._index == 0:
          heard |= dict(self._client.key_value_dir_get(_ALIVE))
      except Exception:  # Nobody answers: for how long, `silence` sees.
        continue
      self._answered = time.monotonic()
      if _END in heard:
        self._end(**json.loads(heard.pop(_END)))
      self._hear({int(k.rpartition('/')[2]): v for k, v in heard.items()})

  def _say(self, number):
    doing, value = self._doing, {'beat': number}
    if doing:
      what, since = doing
      value |= {'doing': what, 'for_s': time.monotonic() - since}
    room = _ALIVE if self._index else _FIRST
    self._client.key_value_set(
      f'{room}/{self._index}', json.dumps(value), allow_overwrite=True
    )

  def _hear(self, values: Mapping[int, str]):
    now = time.monotonic()
    for i, (before, since) in self._heard.items():
      value = values.get(i)
      if value != before:
        self._heard[i] = value, now
      elif now - since > self._dead_after_s:
        self._lost(i, now - since)
    if self._index == 0:
      for i, value in values.items():
        self._name_slow(i, json.loads(value))

  def _name_slow(self, index, value):
    what, waited = value.get('doing'), value.get('for_s', 0.0)
    if what is None or waited < self._slow_after_s:
      self._told[index] = 0.0
    elif waited >= 2 * self._told.get(index, 0.0):
      self._told[index] = waited
      print(
        f'all wait for {self._name(index)}: {what}, for {waited:.0f} s',
        flush=True,
      )

  def _silence(self):
    """Ends this process if nothing has answered its calls for too long."""
    while not self._stopped.wait(_BEAT_S):
      silent = time.monotonic() - self._answered
      if silent > self._dead_after_s:
        # To nobody's ears: a call would hang.
        exit_now(LostProcessError.exit_code, self._silent(0, silent))

  def _name(self, index):
    return f'process {index} of {self._count}'

  def _lost(self, index, seconds):
    message = self._silent(index, seconds)
    self.post(LostProcessError.exit_code, message)
    self._end(LostProcessError.exit_code, message)

  def _silent(self, index, seconds):
    return (
      f'{self._name(index)} has died, or cannot be reached: no sign of life '
      f'for {seconds:.0f} s (processes.dead_after_s); run the same '
      'command on all of them to resume'
    )

  def _end(self, code, message):
    if not self._stopped.is_set():
      self.leave(code, message)

  def leave(self, code: int, message: str) -> None:
    """Prints and exits, process 0 when the others have read it."""
    self._stopped.set()
    _print(message)
    with contextlib.suppress(Exception):  # If nobody answers, nobody waits.
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
      for index, (_, since) in self._heard.items()
      if began - since < self._dead_after_s
    }
    while time.monotonic() - began < _READ_S:
      left = self._client.key_value_dir_get(_LEFT)
      if living <= {int(key.rpartition('/')[2]) for key, _ in left}:
        return
      time.sleep(_BEAT_S / 4)
