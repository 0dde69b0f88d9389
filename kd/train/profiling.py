"""Traces a few steps with JAX's profiler, and lists the longest operations."""

from collections.abc import Callable
import os
import time

import jax

from kd.core import types
from kd.train import operations

FOLDER = 'profile'


class Profiler:
  """Traces the steps that the config's section `profile` names, once."""

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
      workdir: its folder `profile` gets the trace.
      first_step: updates before the first step that is traced.
      steps: number of steps to trace; 0: none.
      start: updates before the first step of this process, which compiles and
        is not traced.
      pause: called with seconds that are not the steps' own.
      say: called with a line that names the table.
    """
    self._folder = os.path.join(workdir, FOLDER)
    self._pause, self._say, self._began = pause, say, 0.0
    self._first = first_step if steps and start < first_step else None
    self._steps = steps

  def before(self, step: int, state: types.PyTree) -> None:
    """Starts the trace if a step is the first of it.

    Args:
      step: updates before the step.
      state: of training.
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
    """Ends the trace if a step was the last of it, and writes the table.

    Args:
      step: updates so far.
      state: of training.
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
    """Ends a trace that is under way."""
    if self._began:
      self._began = 0.0
      jax.profiler.stop_trace()
