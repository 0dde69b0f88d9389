"""Compares answers of a sample of requests with the teacher's choice."""

import asyncio
import random

from kd.core import errors
from kd.serving import metrics as metrics_lib
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.serving import work as work_lib


class Drift:
  """Scores answers with the teacher, where there is room for it.

  A falling share of tokens that the teacher would have chosen says that the
  requests differ from what the student was trained on.
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
      teacher: in the scheduler, with the served model's tokenizer.
      share: of the requests that are compared.
      timeout_s: the longest time that a comparison may wait.
      metrics: that are told.
    """
    self.teacher = teacher
    self._share, self._timeout_s = share, timeout_s
    self._metrics = metrics
    self._tasks: set[asyncio.Task] = set()  # Others hold no reference.

  def sample(
    self, scheduler: scheduler_lib.Scheduler, work: work_lib.Work
  ) -> None:
    """Compares a request that was answered, if it is one of the sample.

    Call it within the event loop.

    Args:
      scheduler: that has the teacher.
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
      scheduler.cancel(asked)  # Requests come first.
      return
    for prompt, (given, ids) in zip(prompts, answered, strict=True):
      if prompt.error:
        continue
      # The first place is that of the second id.
      best = [x[0][0] for x in prompt.read.alternatives[len(given) - 1 :]]
      agreeing = sum(a == b for a, b in zip(ids, best, strict=True))
      self._metrics.compared(len(ids), agreeing)
