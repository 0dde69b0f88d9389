"""Probes a model with one request through the scheduler."""

import asyncio
import time

from kd.core import errors
from kd.sampling import continuous
from kd.sampling import requests
from kd.serving import exchange
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.serving import work as work_lib

_TEXT = '1 + 1 ='
_TOKENS = 4
# Maximum time from the first token to the end of the answer.
_WHOLE_S = 60.0


def ask(
  scheduler: scheduler_lib.Scheduler,
  model: served_model.ServedModel,
  timeout_s: float,
) -> tuple[str, float]:
  """Requests a few tokens.

  Args:
    scheduler: the scheduler of the model.
    model: the model.
    timeout_s: maximum time to the first token, in seconds.

  Returns:
    Why the probe failed, or '', and the time to the first token in seconds.
  """
  return asyncio.run(_ask(scheduler, model, timeout_s))


async def _ask(scheduler, model, timeout_s):
  work = work_lib.Work(model, [_prompt(model)], 'probe')
  start = time.monotonic()
  try:
    scheduler.submit(work, timeout_s)
    async with asyncio.timeout(timeout_s):
      event = await _event(work)
    first_s = time.monotonic() - start
    async with asyncio.timeout(_WHOLE_S):
      while not event.ended:
        event = await _event(work)
  except TimeoutError:
    scheduler.cancel(work)
    return f'no answer within {timeout_s:g} s', timeout_s
  except errors.KdError as e:
    return str(e), 0.0
  return '', first_s


async def _event(work):
  """Returns the next event of the answer."""
  while True:
    event = exchange.checked(work, await work.event())
    if event.answer is not None or event.ended:
      return event


def _prompt(model) -> work_lib.Prompt:
  tokenizer = model.tokenizer
  first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  ids = (*first, *tokenizer.encode(_TEXT))
  request = requests.numbered(ids, 0, 0, 1)
  answer = continuous.Answer(request, 0, requests.greedy(_TOKENS))
  # Scored, so that non-finite logits of the prompt are detected too.
  return work_lib.Prompt(ids, [answer], scored=True)
