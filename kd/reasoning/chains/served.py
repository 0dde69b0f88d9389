"""Solves questions with a model on a server."""

from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
from typing import Any

from kd.reasoning.chains import chains
from kd.reasoning.chains import traces
from kd.teachers.served import answers as answers_lib

# APIs by the value of reasoning.style.
APIS = {'few_shot': answers_lib.COMPLETIONS, 'chat': answers_lib.CHAT}


def solver(
  answerer: answers_lib.Answerer,
  samples: int,
  requests: int,
  group: int,
) -> chains.Solver:
  """Returns a solver that sends questions to a server.

  Args:
    answerer: the answerer of the server.
    samples: number of samples per question.
    requests: number of concurrent requests.
    group: number of questions between two writes.
  """

  def solved(prompt):
    replies = answerer(prompt.messages, prompt.seed, samples)
    solutions = [
      traces.SampledSolution(answer.text, answer.finish, tokens, None)
      for reply in replies
      for answer, tokens in zip(reply.answers, _tokens(reply), strict=True)
    ]
    return chains.Solved(solutions, tuple(map(_told, replies)))

  def solve(prompts):
    pool = futures.ThreadPoolExecutor(requests, 'solve')
    try:
      # All groups at once, so that no thread waits for the end of a group.
      begun = [pool.submit(solved, prompt) for prompt in prompts]
      for begin in range(0, len(begun), group):
        yield [future.result() for future in begun[begin : begin + group]]
    finally:
      answerer.stop()
      # Waits for running requests, which have been paid for.
      pool.shutdown(cancel_futures=True)

  return solve


def _tokens(reply: answers_lib.Reply) -> list[int]:
  """Returns the token count of a reply, split evenly among its answers."""
  count = len(reply.answers)
  each, rest = divmod(reply.generated_tokens or 0, count)
  return [each + (i < rest) for i in range(count)]


def _told(reply: answers_lib.Reply) -> dict[str, Any]:
  fields = dataclasses.asdict(reply)
  del fields['answers']
  return fields


def totals(solved: Sequence[chains.Solved]) -> dict[str, Any]:
  """Returns totals over all replies, as JSON.

  Returns:
    Totals replies, prompt_tokens and generated_tokens (None if missing in a
    reply); the dates `first` and `last`; and numbers of replies by name in
    `models` and `fingerprints`.
  """
  replies = [reply for one in solved for reply in one.replies]
  dates = [reply['date'] for reply in replies]
  return {
    'replies': len(replies),
    **{
      name: _sum(reply[name] for reply in replies)
      for name in ('prompt_tokens', 'generated_tokens')
    },
    'first': min(dates, default=None),
    'last': max(dates, default=None),
    'models': _counts(replies, 'model'),
    'fingerprints': _counts(replies, 'fingerprint'),
  }


def _sum(values):
  counts = list(values)
  return None if None in counts else sum(counts)


def _counts(replies: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
  names = [reply[name] for reply in replies]
  return {key: names.count(key) for key in sorted(set(names))}
