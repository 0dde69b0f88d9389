"""SIGTERM: the machine is about to be taken away."""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading

import jax
import numpy as np

from kd.core import errors
from kd.partitioning import processes


class Notice:
  """What a SIGTERM does from here on: one a process.

  Where nothing is unsaved the process ends at once with exit code 42, even in
  the middle of a compilation, which the main thread can't leave: as much is
  lost by that as by a SIGKILL. Within `unsaved` the signal is remembered.
  """

  def __init__(self):
    self._received, self._unsaved = threading.Event(), False

  def install(self) -> None:
    """From now on; only the main thread may call it."""
    here, there = os.pipe()
    os.set_blocking(there, False)
    # Python's own handlers run in the main thread alone, between bytecodes;
    # the byte is written by whichever thread gets the signal.
    signal.set_wakeup_fd(there, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda signum, frame: None)
    threading.Thread(
      target=self._watch, args=(here,), name='sigterm', daemon=True
    ).start()

  def _watch(self, pipe):
    while numbers := os.read(pipe, 64):
      if signal.SIGTERM not in numbers:
        continue
      self._received.set()
      if not self._unsaved:
        _end_now()

  @contextlib.contextmanager
  def unsaved(self) -> Iterator[None]:
    """Within it, there may be something to save: the caller looks."""
    self._unsaved = True
    try:
      yield
    finally:
      self._unsaved = False
    if self.received:
      _end_now()

  @property
  def received(self) -> bool:
    return self._received.is_set()


def _end_now():
  error = errors.PreemptedError('SIGTERM received; the same command goes on')
  processes.leave(error.exit_code, str(error))
  os.write(sys.stderr.fileno(), f'kd: error: {error}\n'.encode())
  os._exit(error.exit_code)


NOTICE = Notice()


class Agreement:
  """Whether any process of the run has been told to stop, asked by all."""

  def __init__(self, mesh: jax.sharding.Mesh):
    """Builds the program.

    Args:
      mesh: the devices of all processes.
    """
    self._alone = jax.process_count() == 1
    axes = jax.sharding.PartitionSpec(mesh.axis_names)
    self._split = jax.sharding.NamedSharding(mesh, axes)
    self._here = len(mesh.local_devices)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    self._any = jax.jit(lambda x: x.any(), out_shardings=everywhere)
    self._asked = None

  def ask(self) -> None:
    """Sends this process's answer along with what the devices do."""
    if not self._alone:
      told = np.full(self._here, NOTICE.received)
      self._asked = self._any(
        jax.make_array_from_process_local_data(self._split, told)
      )

  def answer(self) -> bool:
    """To what was last asked, the same on every process; waits for it."""
    if self._alone:
      return NOTICE.received
    return self._asked is not None and bool(self._asked)

  def check(self) -> None:
    """Raises PreemptedError if any process has been told."""
    self.ask()
    if self.answer():
      raise errors.PreemptedError('SIGTERM received; the same command goes on')
