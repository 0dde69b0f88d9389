"""Handles requests to stop: SIGTERM before a preemption, and Ctrl-C."""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading

import jax
import numpy as np

from kd.core import errors
from kd.partitioning import processes

# The exit code of a program that Ctrl-C ended, as shells report it.
ABORTED = 128 + signal.SIGINT
_MARK = 0  # No signal has this number.


class StopRequests:
  """The requests to stop that this process has received.

  Outside of `unsaved`, a request ends the process at once with exit code 42,
  even during a compilation, which the main thread cannot interrupt: there is
  nothing to lose. Within `unsaved`, the request is only recorded. A second
  Ctrl-C ends the process at once in either case.
  """

  def __init__(self):
    self._received, self._unsaved = threading.Event(), False
    self._name, self._takes_interrupts = 'SIGTERM', True
    self._pipe: int | None = None
    self._stop: Callable[[], None] | None = None
    self._caught_up = threading.Event()

  def install(self) -> None:
    """Installs the signal handlers; call it in the main thread."""
    here, there = os.pipe()
    os.set_blocking(there, False)
    self._pipe = there
    # Python runs signal handlers only in the main thread, between bytecodes.
    # The byte is written by whichever thread receives the signal.
    signal.set_wakeup_fd(there, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, lambda signum, frame: None)
    threading.Thread(
      target=self._watch, args=(here,), name='signals', daemon=True
    ).start()

  def _watch(self, pipe):
    while numbers := os.read(pipe, 64):
      for number in numbers:
        self._handle(number)

  def _handle(self, number):
    if number == _MARK:
      self._caught_up.set()
      return
    if number == signal.SIGINT and self._takes_interrupts:
      if self.received:
        _end_now(ABORTED, 'Ctrl-C twice: ended at once')
      self._name = 'Ctrl-C'
    elif number != signal.SIGTERM:
      return
    self._received.set()
    if self._stop is not None:
      self._stop()
      return
    if not self._unsaved:
      _end_now(errors.PreemptedError.exit_code, self._line())
    if self._name == 'Ctrl-C':
      _write('saving; press Ctrl-C again to end at once')

  def _line(self):
    return f'{self.reason}; run the same command to resume'

  @contextlib.contextmanager
  def unsaved(self) -> Iterator[None]:
    """Marks a block with unsaved work: a signal only sets `received`."""
    self._unsaved = True
    try:
      yield
    finally:
      self._unsaved = False
    if self.received:
      _end_now(errors.PreemptedError.exit_code, self._line())

  @contextlib.contextmanager
  def stopped_by(self, stop: Callable[[], None]) -> Iterator[None]:
    """Lets requests to stop call `stop`, which makes the block return normally.

    Args:
      stop: function called after SIGTERM or Ctrl-C, in another thread.
    """
    self._stop = stop
    try:
      yield
    finally:
      self._stop = None

  @contextlib.contextmanager
  def interrupts_left_to(self, handler: Callable[..., None]) -> Iterator[None]:
    """Lets `handler` handle Ctrl-C in a block; use it in the main thread."""
    self._takes_interrupts = False
    previous = signal.signal(signal.SIGINT, handler)
    try:
      yield
    finally:
      signal.signal(signal.SIGINT, previous)
      # The watching thread may not have read a signal of `handler` yet.
      self._catch_up()
      self._takes_interrupts = True

  def _catch_up(self):
    """Waits until the watching thread has processed all signals so far."""
    if self._pipe is not None:
      self._caught_up.clear()
      os.write(self._pipe, bytes([_MARK]))
      self._caught_up.wait()

  @property
  def received(self) -> bool:
    return self._received.is_set()

  @property
  def reason(self) -> str:
    """The reason to stop, for a message."""
    if self.received:
      return f'{self._name} received'
    return 'another process of the run received a stop request'


def _write(line):
  os.write(sys.stderr.fileno(), f'kd: {line}\n'.encode())


def _end_now(code, line):
  processes.leave(code, line)
  _write(f'error: {line}')
  os._exit(code)


STOP_REQUESTS = StopRequests()


class StopAgreement:
  """Lets all processes agree on whether any of them received a stop request."""

  def __init__(self, mesh: jax.sharding.Mesh):
    """Builds the program.

    Args:
      mesh: mesh of the devices of all processes.
    """
    self._alone = jax.process_count() == 1
    axes = jax.sharding.PartitionSpec(mesh.axis_names)
    self._split = jax.sharding.NamedSharding(mesh, axes)
    self._here = len(mesh.local_devices)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    self._any = jax.jit(lambda x: x.any(), out_shardings=everywhere)
    self._asked = None

  def start(self) -> None:
    """Starts the all-reduce of `received`, without waiting."""
    if not self._alone:
      told = np.full(self._here, STOP_REQUESTS.received)
      self._asked = self._any(
        jax.make_array_from_process_local_data(self._split, told)
      )

  def result(self) -> bool:
    """Returns the result of the last all-reduce, equal on every process."""
    if self._alone:
      return STOP_REQUESTS.received
    return self._asked is not None and bool(self._asked)

  def check(self) -> None:
    """Raises PreemptedError if any process received a stop request."""
    self.start()
    if self.result():
      raise errors.PreemptedError(
        f'{STOP_REQUESTS.reason}; run the same command to resume'
      )
