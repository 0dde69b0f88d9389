"""Samples the rows of coming steps while the student trains on earlier ones.

With a staleness of S, the parameters are copied to the sampling devices before
every S-th update. A step's rows are sampled with the last copy made at an
earlier step. They are thus 1 to S updates old (0 at the first step), and no
result depends on the speed of either side.
"""

from collections.abc import Callable, Mapping
import contextlib
import threading

import jax
import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import read_ahead
from kd.partitioning import processes
from kd.sampling import requests
from kd.teachers import rollout_answers

_READ_AHEAD = 2  # Batches.
_POLL_S = 0.5  # Between checks for the end of the run.

# Function from a step and its batch to the requests of all processes, by index
# in the batch.
Asked = Callable[[int, types.Batch], dict[int, requests.Request]]


def sampled_at(step: int, staleness: int) -> int:
  """Returns the number of updates before a step's rows are sampled."""
  return max(0, staleness * ((step - 1) // staleness))


class _ClosedError(Exception):
  """The run has ended."""


class SamplingAhead:
  """Samples in a thread; each process answers some of the prompts."""

  def __init__(
    self,
    read: Callable[[int], types.Batch],
    asked: Asked,
    sampler: Callable[..., list[list[requests.Sample]]],
    copy: Callable[[types.PyTree], types.PyTree],
    staleness: int,
    steps: int,
    sizes: tuple[int, int],
    timeout_s: float,
  ):
    """Configures sampling, which starts with the first `take`.

    Args:
      read: function from a step to the data's global batch.
      asked: function from a step and its batch to sampling requests.
      sampler: function from (parameters, requests, progress) to answers, on
        this process's devices.
      copy: function that copies the student's parameters to these devices.
      staleness: S, the maximum age of rows in updates.
      steps: number of steps of the run.
      sizes: numbers of rows of a batch and of tokens of an answer; see
        rollout_answers.empty.
      timeout_s: time limit in seconds for reading a batch.
    """
    self._read, self._asked, self._sampler = read, asked, sampler
    self._copy, self._staleness, self._steps = copy, staleness, steps
    self._timeout_s = timeout_s
    self._saved = rollout_answers.empty(staleness, *sizes)
    self._sizes = sizes
    self._changed, self._closed = threading.Condition(), threading.Event()
    self._thread, self._start, self._next = None, 0, None
    self._params: dict[int, types.PyTree] = {}  # By number of earlier updates.
    self._rows: dict[int, types.Batch] = {}
    self._own: dict[int, dict[int, requests.Sample]] = {}
    self._answers: dict[int, rollout_answers.Answers] = {}
    self._error: BaseException | None = None

  def load(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores the arrays that `state` returned, before the first `take`."""
    self._saved = {name: np.array(state[name]) for name in self._saved}

  def take(
    self, step: int, params: types.PyTree
  ) -> tuple[types.Batch, rollout_answers.Answers]:
    """Returns a step's batch of the data, and the answers to its prompts.

    Every process must call it for every step.

    Args:
      step: number of updates applied so far.
      params: the student's parameters after these updates.

    Raises:
      NonFiniteError: a process's logits were NaN or infinite.
      ReadError: the batch could not be read.
    """
    if self._thread is None:
      self._begin(step)
    if self._samples_with(step):
      copy = self._copy(params)
      with self._changed:
        self._params[step] = copy
        self._changed.notify_all()
    answers = self._wait(step)
    self._next = step + 1
    del self._answers[step]
    self._own.pop(step, None)
    return self._rows.pop(step), answers

  def state(self) -> dict[str, np.ndarray]:
    """Returns the answers to save in a checkpoint, once all are sampled.

    They come from older parameters, so a resumed run could not sample them.
    """
    if self._next is None:
      return {name: array.copy() for name, array in self._saved.items()}
    arrays = rollout_answers.empty(self._staleness, *self._sizes)
    for slot in range(self._staleness):
      step = self._next + slot
      if step < self._steps and self._sampled_at(step) < self._next:
        rollout_answers.put(arrays, slot, self._wait(step))
    return arrays

  def close(self) -> None:
    """Stops sampling; returns when the devices are no longer used."""
    self._closed.set()
    with self._changed:
      self._changed.notify_all()
    if self._thread is not None:
      self._thread.join()

  def _begin(self, step):
    for slot in range(self._staleness):
      kept = rollout_answers.get(self._saved, slot)
      if kept is not None:
        self._answers[step + slot] = kept
    self._start = step
    # A daemon, so that a hanging read cannot keep the process from exiting.
    self._thread = threading.Thread(
      target=self._run, args=(step,), name='rollouts', daemon=True
    )
    self._thread.start()

  def _sampled_at(self, step):
    # An extended run has no saved answers of older parameters.
    return max(self._start, sampled_at(step, self._staleness))

  def _samples_with(self, step):
    """Returns whether the parameters before a step are used to sample rows."""
    last = min(self._steps - 1, step + self._staleness)
    return any(
      self._sampled_at(later) == step and later not in self._answers
      for later in range(step, last + 1)
    )

  def _wait(self, step):
    """Waits for a step's answers from all processes, and returns them."""
    with processes.waited_for(f'its rollouts of step {step}'), self._changed:
      self._changed.wait_for(lambda: self._error or step in self._rows)
    error = self._error if step not in self._rows else None
    if error is not None and not isinstance(error, errors.NonFiniteError):
      raise error
    if step not in self._answers:
      own = str(error) if error else rollout_answers.to_json(self._own[step])
      samples = {}
      for values in processes.gather('rollouts', step, own):
        if isinstance(values, str):
          raise errors.NonFiniteError(values)
        samples |= rollout_answers.from_json(values)
      self._answers[step] = rollout_answers.Answers(
        self._sampled_at(step), samples
      )
    return self._answers[step]

  def _run(self, start):
    rows = read_ahead.ReadAhead(self._read, start, _READ_AHEAD, self._timeout_s)
    with contextlib.closing(rows), contextlib.suppress(_ClosedError):
      try:
        for step in range(start, self._steps):
          self._sample(step, rows)
      except _ClosedError:
        raise
      except BaseException as e:
        with self._changed:
          self._error = e
          self._changed.notify_all()

  def _sample(self, step, rows):
    while (batch := rows.get(_POLL_S)) is None:
      self._check_open()
    own = {}
    if step not in self._answers:
      params = self._params_before(self._sampled_at(step))
      asked = self._asked(step, batch)
      # Round-robin, so that all processes have about the same work.
      index, count = jax.process_index(), jax.process_count()
      mine = dict(list(asked.items())[index::count])
      if mine:
        found = self._sampler(params, list(mine.values()), self._progress)
        own = {place: each[0] for place, each in zip(mine, found, strict=True)}
    with self._changed:
      self._rows[step], self._own[step] = batch, own
      self._changed.notify_all()

  def _params_before(self, update):
    with self._changed:
      self._changed.wait_for(
        lambda: self._closed.is_set() or update in self._params
      )
      self._check_open()
      for older in [version for version in self._params if version < update]:
        del self._params[older]
      return self._params[update]

  def _progress(self, done, total):
    del done, total
    self._check_open()

  def _check_open(self):
    if self._closed.is_set():
      raise _ClosedError
