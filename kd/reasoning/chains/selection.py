"""Selects training data: traces that are correct, distinct and balanced."""

import collections
from collections.abc import Iterable, Sequence
import dataclasses

from kd.reasoning.arithmetic import steps as steps_lib
from kd.reasoning.chains import traces as traces_lib

Trace = traces_lib.Trace


@dataclasses.dataclass(frozen=True)
class Rules:
  """Rules that a trace must meet to be kept.

  Attributes:
    keep: correct (equals the reference), voted (equals the majority vote),
      both, or any (has an answer).
    min_vote_fraction: minimum fraction of answers that agree with the vote.
    steps: right (no statement is wrong or unreadable) or any.
    min_steps: minimum number of statements that were checked and are right.
    max_per_problem: maximum number of traces per problem; 0: no limit.
    max_per_step_count: maximum number of traces with the same number of right
      statements; 0: no limit.
  """

  keep: str
  min_vote_fraction: float
  steps: str
  min_steps: int
  max_per_problem: int
  max_per_step_count: int


def rejection_reason(trace: Trace, rules: Rules) -> str:
  """Returns why a trace is rejected on its own; '' if it is accepted."""
  sampled = trace.sampled
  if sampled.finish == 'too_long':
    return traces_lib.TOO_LONG
  if not sampled.text.strip():
    return traces_lib.EMPTY
  if sampled.finish != 'stop':
    return traces_lib.CUT
  if trace.answer.value is None:
    return traces_lib.UNPARSED
  if trace.answer.markers > 1:
    return traces_lib.MANY_MARKERS
  if rules.steps == 'right' and any(
    step.kind in steps_lib.ERRORS for step in trace.steps
  ):
    return traces_lib.WRONG_STEP
  if trace.kind.has_steps and (
    trace.checked < rules.min_steps or not trace.rationale
  ):
    return traces_lib.FEW_STEPS
  if rules.keep in ('correct', 'both') and not trace.right:
    unknown = trace.right is None
    return traces_lib.NO_REFERENCE if unknown else traces_lib.WRONG_ANSWER
  if rules.keep in ('voted', 'both') and (
    trace.answer.value != trace.vote.winner
    or trace.vote.fraction < rules.min_vote_fraction
  ):
    return traces_lib.OUTVOTED
  return ''


def select(
  by_problem: Iterable[Sequence[Trace]], rules: Rules
) -> tuple[list[Trace], list[tuple[Trace, str]]]:
  """Splits traces into kept ones and rejected ones with reasons.

  Among traces of a problem with equal texts or equal calculations, only the
  first is kept. If too many traces have the same number of right statements,
  problems take turns in order.

  Args:
    by_problem: the traces of each problem.
    rules: the rules for keeping a trace.

  Returns:
    The kept traces, and the rejected traces with one of traces.REASONS, both
    in the given order.
  """
  reasons: dict[int, str] = {}
  all_traces: list[Trace] = []
  turns: dict[int, list[list[int]]] = collections.defaultdict(list)
  for group in by_problem:
    first = len(all_traces)
    all_traces += group
    kept: list[int] = []
    texts, sequences = set(), set()
    for i, trace in enumerate(group, first):
      reason = rejection_reason(trace, rules)
      if not reason:
        reason = _duplicate_reason(trace, texts, sequences)
      if (
        not reason
        and rules.max_per_problem
        and len(kept) >= rules.max_per_problem
      ):
        reason = traces_lib.OVER_PROBLEM
      if reason:
        reasons[i] = reason
        continue
      kept.append(i)
    by_steps = collections.defaultdict(list)
    for i in kept:
      by_steps[all_traces[i].checked].append(i)
    for count, numbers in by_steps.items():
      turns[count].append(numbers)
  if rules.max_per_step_count:
    for groups in turns.values():
      for i in _in_turns(groups)[rules.max_per_step_count :]:
        reasons[i] = traces_lib.OVER_STEPS
  kept = [t for i, t in enumerate(all_traces) if i not in reasons]
  rejected = [(all_traces[i], reason) for i, reason in sorted(reasons.items())]
  return kept, rejected


def _duplicate_reason(trace, texts, sequences):
  """Returns why a trace is a duplicate; if it is not, records it."""
  text, sequence = trace.text_key, trace.steps_key
  if text in texts:
    return traces_lib.DUPLICATE_TEXT
  if sequence and sequence in sequences:
    return traces_lib.DUPLICATE_STEPS
  texts.add(text)
  sequences.add(sequence)
  return ''


def _in_turns(groups: Sequence[Sequence[int]]) -> list[int]:
  """Returns the first of each group, then the second of each, and so on."""
  longest = max(map(len, groups))
  return [
    group[turn]
    for turn in range(longest)
    for group in groups
    if turn < len(group)
  ]
