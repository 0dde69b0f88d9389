"""Has a model on a server solve questions."""

from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
from typing import Any

from kd.reasoning.chains import chains
from kd.reasoning.chains import traces
from kd.teachers.served import answers as answers_lib

# By reasoning.style.
APIS = {'few_shot': answers_lib.COMPLETIONS, 'chat': answers_lib.CHAT}


def solver(
  answerer: answers_lib.Answerer,
  samples: int,
  requests: int,
  group: int,
) -> chains.Solver:
  """Returns the solver that asks a server.

  Args:
    answerer: of the server.
    samples: number of samples per question.
    requests: that are under way at a time.
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
      # All at once: no thread waits for the last question of a group.
      begun = [pool.submit(solved, prompt) for prompt in prompts]
      for begin in range(0, len(begun), group):
        yield [future.result() for future in begun[begin : begin + group]]
    finally:
      answerer.stop()
      # Replies that are on their way have been paid for.
      pool.shutdown(cancel_futures=True)

  return solve


def _tokens(reply: answers_lib.Reply) -> list[int]:
  """Returns equal shares of the tokens that a reply has counted."""
  count = len(reply.answers)
  each, rest = divmod(reply.generated_tokens or 0, count)
  return [each + (i < rest) for i in range(count)]


def _told(reply: answers_lib.Reply) -> dict[str, Any]:
  fields = dataclasses.asdict(reply)
  del fields['answers']
  return fields


def totals(solved: Sequence[chains.Solved]) -> dict[str, Any]:
  """Returns what is known of all replies together, as JSON.

  Returns:
    replies, prompt_tokens and generated_tokens (None where a reply tells
    none); the dates `first` and `last`; replies by `models` and by
    `fingerprints`.
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
