"""Compares the answers to a sample of requests with the teacher's choices."""

import asyncio
from collections.abc import Sequence
import random
from typing import Any

from kd.core import errors
from kd.serving import metrics as metrics_lib
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.serving import work as work_lib


class Drift:
  """Scores answers with the teacher, if the scheduler has room.

  If the fraction of tokens that the teacher would have chosen falls, then the
  requests differ from the training data of the student.
  """

  def __init__(
    self,
    teacher: served_model.ServedModel,
    share: float,
    timeout_s: float,
    metrics: metrics_lib.Metrics,
  ):
    """Initializes the comparison.

    Args:
      teacher: the teacher in the scheduler; it has the served model's
        tokenizer.
      share: fraction of requests to compare, from 0 to 1.
      timeout_s: maximum time of a comparison, in seconds.
      metrics: metrics to update.
    """
    self.teacher = teacher
    self._share, self._timeout_s = share, timeout_s
    self._metrics = metrics
    # The event loop holds only weak references to tasks.
    self._tasks: set[asyncio.Task] = set()

  def sample(
    self, scheduler: scheduler_lib.Scheduler, work: work_lib.Work
  ) -> None:
    """Compares an answered request with the given probability.

    Must be called within the event loop.

    Args:
      scheduler: the scheduler of the teacher.
      work: the request.
    """
    if random.random() < self._share:
      task = asyncio.create_task(self._compare(scheduler, work))
      self._tasks.add(task)
      task.add_done_callback(self._tasks.discard)

  async def _compare(self, scheduler, work):
    answered = [
      (prompt.ids, answer.result.ids)
      for prompt in work.prompts
      if not prompt.images  # Prompts with images are not scored.
      for answer in prompt.answers
      if answer.result and answer.result.ids
    ]
    answered = [
      pair
      for pair in answered
      if sum(map(len, pair)) <= self.teacher.max_length
    ]
    if not answered:
      return
    prompts = [work_lib.Prompt((*a, *b), [], scored=True) for a, b in answered]
    asked = work_lib.Work(self.teacher, prompts, 'drift')
    try:
      scheduler.submit(asked, self._timeout_s)
      async with asyncio.timeout(self._timeout_s):
        for _ in prompts:
          await asked.event()
    except (errors.KdError, TimeoutError):
      scheduler.cancel(asked)  # Requests have priority.
      return
    for prompt, (given, ids) in zip(prompts, answered, strict=True):
      if prompt.error:
        continue
      # The first entry is for the second id.
      best = [x[0][0] for x in prompt.read.alternatives[len(given) - 1 :]]
      agreeing = sum(a == b for a, b in zip(ids, best, strict=True))
      self._metrics.compared(len(ids), agreeing)


def make(
  service: str,
  students: Sequence[served_model.ServedModel],
  config: Any,
  load: served_model.Load,
  metrics: metrics_lib.Metrics,
) -> Drift | None:
  """Loads the teacher in `follow.teacher`; returns None if it is not set.

  Args:
    service: name of the service.
    students: the models whose answers are compared.
    config: the config, with sections `follow` and `serve`.
    load: loads a model.
    metrics: metrics to update.

  Raises:
    ConfigError: the teacher cannot be loaded, or it does not have the tokenizer
      of each model.
  """
  place = config.follow.teacher
  if not place:
    return None
  teacher = load(f'{service}@teacher', place)
  for student in students:
    if teacher.tokenizer.digest != student.tokenizer.digest:
      raise errors.ConfigError(
        'follow.teacher',
        f'found {place!r}, whose tokenizer is not that of {student.name}',
        legal='a model with the same tokenizer',
      )
  timeout_s = config.serve.timeout_ms / 1000
  return Drift(teacher, config.follow.compared_share, timeout_s, metrics)
