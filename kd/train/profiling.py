"""Traces a few steps with JAX's profiler and lists the longest operations."""

from collections.abc import Callable
import os
import time

import jax

from kd.core import types
from kd.train import operations

FOLDER = 'profile'


class Profiler:
  """Traces the steps in the config's section `profile` once."""

  def __init__(
    self,
    workdir: str,
    first_step: int,
    steps: int,
    start: int,
    pause: Callable[[float], None],
    say: Callable[[str], None],
  ):
    """Initializes the profiler.

    Args:
      workdir: workdir in whose folder `profile` the trace is written.
      first_step: number of updates before the first step to trace.
      steps: number of steps to trace.
      start: number of updates before the first step of this process, which
        compiles and is not traced.
      pause: function called with seconds spent outside of steps.
      say: function called with a line that names the table.
    """
    self._folder = os.path.join(workdir, FOLDER)
    self._pause, self._say, self._began = pause, say, 0.0
    self._first = first_step if steps and start < first_step else None
    self._steps = steps

  def before(self, step: int, state: types.PyTree) -> None:
    """Starts the trace before its first step.

    Args:
      step: number of updates before the step.
      state: training state.
    """
    if step != self._first:
      return
    jax.block_until_ready(state)
    began = time.monotonic()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Frames would be most of the trace.
    jax.profiler.start_trace(self._folder, profiler_options=options)
    self._began = time.monotonic()
    self._pause(self._began - began)

  def after(self, step: int, state: types.PyTree) -> None:
    """Ends the trace after its last step, and writes the table.

    Args:
      step: number of updates so far.
      state: training state.
    """
    if not self._began or step != self._first + self._steps:
      return
    jax.block_until_ready(state)
    ended = time.monotonic()
    wall_s = ended - self._began
    self.close()
    if jax.process_index() == 0:
      table = operations.read(self._folder)
      path = operations.write(
        self._folder, table, self._first, self._steps, wall_s
      )
      self._say(f'traced {self._steps} steps: {path}')
    self._pause(time.monotonic() - ended)

  def close(self) -> None:
    """Ends a trace that is in progress."""
    if self._began:
      self._began = 0.0
      jax.profiler.stop_trace()
