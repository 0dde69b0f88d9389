"""Schedules requests in the thread that owns the devices."""

import collections
from collections.abc import Callable, Sequence
import math
import threading
import time

from kd.core import errors
from kd.partitioning import rules
from kd.serving import lane as lane_lib
from kd.serving import metrics as metrics_lib
from kd.serving import served_model
from kd.serving import work as work_lib

COMPILING, READY, STOPPING, FAILED = 'compiling', 'ready', 'stopping', 'failed'

# Number of prompt ids after which running answers decode another slice.
_READ_AHEAD = 512


class BusyError(errors.KdError):
  """Raised if there are too many requests.

  Attributes:
    retry_after_s: seconds until there may be room.
  """

  def __init__(self, message: str, retry_after_s: int):
    super().__init__(message)
    self.retry_after_s = retry_after_s


class StoppedError(errors.KdError):
  """Raised if the server is stopping or has failed."""


class Scheduler:
  """Answers requests of several models in one thread.

  Requests join and leave the batch at the end of a slice of steps.
  """

  def __init__(
    self,
    models: Sequence[served_model.ServedModel],
    queue: int,
    metrics: metrics_lib.Metrics,
    say: Callable[[str], None],
    at_failure: Callable[[], None],
  ):
    """Initializes the scheduler; `start` starts its thread.

    Args:
      models: models with different names.
      queue: maximum number of waiting prompts of each model.
      metrics: metrics to update.
      say: writes a line to the log.
      at_failure: called if the thread ends with an error.
    """
    # Replaced as a whole, because the thread iterates without the lock.
    self._lanes = {model: lane_lib.Lane(model) for model in models}
    self._queue, self._metrics, self._say = queue, metrics, say
    self._at_failure = at_failure
    self._changed = threading.Condition()
    self._cancelled: collections.deque[work_lib.Work] = collections.deque()
    self.state = COMPILING
    self.error: Exception | None = None
    # A daemon, so that the process ends if the main thread fails.
    self._thread = threading.Thread(
      target=self._run, name='scheduler', daemon=True
    )

  def start(self) -> None:
    """Starts the thread, which compiles all programs and answers requests."""
    self._thread.start()

  def close(self) -> None:
    """Stops after answering the requests already accepted."""
    with self._changed:
      if self.state != FAILED:
        self.state = STOPPING
      self._changed.notify()

  def join(self, timeout_s: float) -> None:
    """Waits until the thread has ended, after `close`."""
    self._thread.join(timeout_s)

  def add(self, model: served_model.ServedModel) -> None:
    """Adds a model with compiled programs."""
    with self._changed:
      self._lanes = {**self._lanes, model: lane_lib.Lane(model)}

  def remove(self, model: served_model.ServedModel) -> bool:
    """Removes a model that gets no more requests.

    Returns:
      Whether it was removed; False while it has requests.
    """
    with self._changed:
      if self._lanes[model].is_busy:
        return False
      self._lanes = {m: x for m, x in self._lanes.items() if m is not model}
      self._metrics.failed(model.name).set(0)
      return True

  def submit(self, work: work_lib.Work, timeout_s: float) -> None:
    """Queues a request.

    Args:
      work: the request.
      timeout_s: maximum time to the first token, in seconds.

    Raises:
      BusyError: the queue is full, or the first token would be too late.
      ModelError: the model has failed.
      StoppedError: the server is not ready, or no longer has the model.
    """
    with self._changed:
      if self.state != READY:
        raise StoppedError(f'the server is {self.state}')
      lane = self._lanes.get(work.model)
      if lane is None:
        raise StoppedError(f'{work.model.name} is no longer served')
      if lane.fault:
        raise lane_lib.ModelError(lane.fault)
      work.wait_s = lane.wait_s(work.client)
      later = max(1, math.ceil(work.wait_s))
      is_full = lane.queued(work.prompts) > self._queue
      # A client with few waiting prompts has room regardless of other clients.
      share = self._queue // lane.waiting.clients(work.client)
      count = lane.waiting.count(work.client) + len(work.prompts)
      if is_full and count > share:
        raise BusyError(
          f'the queue has no room: {lane.queued()} prompts are waiting, the '
          f'limit is {self._queue}',
          later,
        )
      # An idle server always accepts, so that old estimates are replaced.
      latest_s = lane.estimate.latest_s(work.wait_s) if lane.is_busy else 0.0
      if latest_s > timeout_s:
        raise BusyError(
          f'the first token may come after {latest_s:.1f} s, later than the '
          f'limit of {timeout_s:.3g} s',
          later,
        )
      now = time.monotonic()
      for number in range(len(work.prompts)):
        lane.waiting.put(work.client, lane_lib.Entry(work, number, now))
      self._gauge(lane)
      self._changed.notify()

  def waited(
    self, work: work_lib.Work, seconds: float, timeout_s: float
  ) -> None:
    """Records a wait, for later estimates.

    Args:
      work: a queued request.
      seconds: time until its handler had the first token or gave up.
      timeout_s: timeout that it was queued with.
    """
    with self._changed:
      if lane := self._lanes.get(work.model):
        lane.estimate.waited(work.wait_s, seconds, timeout_s)

  def cancel(self, work: work_lib.Work) -> None:
    """Cancels a request; its answers leave the batch."""
    with self._changed:
      self._cancelled.append(work)
      self._changed.notify()

  def _run(self) -> None:
    try:
      self._compile()
      while self._wait():
        self._drop_cancelled()
        for lane in self._lanes.values():
          self._advance(lane)
    except Exception as e:  # Reported to the handlers and the main thread.
      self._fail(e)

  def _advance(self, lane: lane_lib.Lane) -> None:
    """Starts and continues answers of a model; restarts it if it has failed."""
    if lane.fault and lane.retry_s:
      return
    try:
      with rules.active(lane.model.run.mesh):
        if lane.fault:
          self._restart(lane)
        self._admit(lane)
        self._step(lane)
    except Exception as e:  # Such as out of memory, in this model only.
      if all(x is lane or x.fault for x in self._lanes.values()):
        raise
      self._break(lane, e)

  def _restart(self, lane):
    lane.model.batch.reset()
    with self._changed:
      lane.fault = ''
    self._metrics.failed(lane.model.name).set(0)
    self._say(f'{lane.model.name} answers again')

  def _break(self, lane, error):
    """Ends the requests of a model, because its batch may be damaged."""
    with self._changed:
      works = lane.fail(f'it has failed: {type(error).__name__}')
      self._gauge(lane)
      if lane.model in self._lanes:
        self._metrics.failed(lane.model.name).set(1)
    self._say(
      f'{lane.model.name} has failed: {type(error).__name__}: {error}; '
      f'retrying in {lane.retry_s:.0f} s'
    )
    self._metrics.running(lane.model.name).set(0)
    for work in works:
      work.notify(lane_lib.ModelError(lane.fault))

  def _compile(self):
    start = time.monotonic()
    for model in self._lanes:
      with rules.active(model.run.mesh):
        for done, total in model.batch.compile():
          if self.state == STOPPING:
            return
          if done == total or not done % 8:
            self._say(f'{model.name}: {done}/{total} programs compiled')
    with self._changed:
      if self.state == COMPILING:
        self.state = READY
    self._say(f'ready after {time.monotonic() - start:.1f} s')

  def _wait(self) -> bool:
    """Waits until there is work; returns False at the end."""
    with self._changed:
      while True:
        lanes = self._lanes.values()
        waits = [lane.retry_s for lane in lanes if lane.fault]
        if self._cancelled or any(x.is_busy for x in lanes) or 0.0 in waits:
          return True
        if self.state == STOPPING:
          return False
        self._changed.wait(min(waits, default=None))

  def _fail(self, error):
    with self._changed:
      self.state, self.error = FAILED, error
      works = set().union(*(x.clear() for x in self._lanes.values()))
    for work in works:
      work.notify(StoppedError('the server has failed'))
    self._at_failure()

  def _drop_cancelled(self):
    with self._changed:
      works = set(self._cancelled)
      self._cancelled.clear()
      for work in works:
        # A removed model has no requests.
        if lane := self._lanes.get(work.model):
          self._drop(lane, work)

  def _drop(self, lane, work):
    for entry in [e for e in lane.waiting if e.work is work]:
      lane.waiting.remove(work.client, entry)
    if lane.current and lane.current.work is work:
      lane.current = None
    for answer, (entry, _) in list(lane.places.items()):
      if entry.work is work:
        lane.model.batch.remove(answer)
        del lane.places[answer]
    for entry in [e for e in lane.started if e.work is work]:
      del lane.started[entry]
    self._gauge(lane)

  def _admit(self, lane: lane_lib.Lane) -> None:
    """Starts answers, as far as there is room and time."""
    batch, read = lane.model.batch, 0
    while True:
      entry = lane.current
      if entry is None:
        # Limits the delay of running answers and other models.
        if read >= _READ_AHEAD:
          return
        entry = self._next(lane)
        if entry is None:
          return
        read += len(entry.prompt.ids)
        if not self._read(lane, entry):
          continue
      while entry.begun < len(entry.prompt.answers):
        if not batch.room:
          return
        answer = entry.prompt.answers[entry.begun]
        batch.add(answer, entry.prompt.read)
        lane.places[answer] = (entry, entry.begun)
        entry.begun += 1
      entry.prompt.read.cache = None
      lane.current = None

  def _next(self, lane) -> lane_lib.Entry | None:
    """Returns the next prompt of the queue; None if none can start."""
    with self._changed:
      if not lane.waiting or not lane.model.batch.room:
        return None
      lane.current = lane.waiting.get()
      lane.left(lane.current)
      if lane.current.work.begun is None:
        lane.current.work.begun = lane.last_left
      self._gauge(lane)
      return lane.current

  def _read(self, lane, entry) -> bool:
    """Prefills a prompt; returns whether it has answers to start."""
    prompt = entry.prompt
    try:
      prompt.read = lane.model.batch.prefill(
        prompt.ids, prompt.scored, prompt.images
      )
    except errors.NonFiniteError as e:
      prompt.error = e
    has_answers = bool(prompt.answers) and not prompt.error
    if prompt.read and not has_answers:
      prompt.read.cache = None
    entry.work.notify(work_lib.Event(entry.number, ended=not has_answers))
    if not has_answers:
      lane.first_token(entry)
      lane.current = None
      if not prompt.error:
        lane.answered()
    return has_answers

  def _step(self, lane: lane_lib.Lane) -> None:
    """Decodes a slice and notifies the handlers."""
    self._metrics.running(lane.model.name).set(len(lane.places))
    for answer in lane.model.batch.step():
      entry, number = lane.places[answer]
      lane.first_token(entry)
      count = len(answer.grown.ids)
      if answer.ended:
        del lane.places[answer]
        lane.answered()
        count = len(answer.result.ids) if answer.result else count
      event = work_lib.Event(entry.number, number, count, answer.ended)
      entry.work.notify(event)
    self._metrics.running(lane.model.name).set(len(lane.places))

  def failed(self) -> dict[str, str]:
    """Returns the faults of failed models by name."""
    lanes = self._lanes.items()
    return {model.name: lane.fault for model, lane in lanes if lane.fault}

  def _gauge(self, lane):
    self._metrics.waiting(lane.model.name).set(len(lane.waiting))
