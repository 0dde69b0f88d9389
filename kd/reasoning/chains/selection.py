"""Which traces become training data: checked, voted on, distinct, balanced."""

import collections
from collections.abc import Iterable, Sequence
import dataclasses

from kd.reasoning.arithmetic import steps as steps_lib
from kd.reasoning.chains import traces as traces_lib

Trace = traces_lib.Trace


@dataclasses.dataclass(frozen=True)
class Rules:
  """What a trace must be.

  Attributes:
    keep: correct (answers as the reference does), voted (as most samples of
      its problem do), both, or any (has an answer).
    min_vote_fraction: fraction of the answers that the most frequent one needs.
    steps: right (no statement is wrong or unreadable) or any.
    min_steps: statements that were checked and are right.
    max_per_problem: traces kept per problem; 0: no limit.
    max_per_step_count: traces kept with the same number of right statements; 0:
      no limit.
  """

  keep: str
  min_vote_fraction: float
  steps: str
  min_steps: int
  max_per_problem: int
  max_per_step_count: int


def fault(trace: Trace, rules: Rules) -> str:
  """Why a trace is rejected whatever the others are; '' if it is not."""
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
  if trace.checked < rules.min_steps or not trace.rationale:
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
  """Splits traces into those that are kept and the others, with reasons.

  Of equal texts, and of equal sequences of statements, the first of a problem
  is kept. Where there are too many with one number of statements, problems
  take turns, in their order.

  Args:
    by_problem: the traces of each problem.
    rules: what they must be.

  Returns:
    The traces that are kept, in the given order, and the rejected ones with
    one of traces.REASONS, likewise.
  """
  reasons: dict[int, str] = {}
  everything: list[Trace] = []
  turns: dict[int, list[list[int]]] = collections.defaultdict(list)
  for group in by_problem:
    first = len(everything)
    everything += group
    kept: list[int] = []
    texts, sequences = set(), set()
    for i, trace in enumerate(group, first):
      reason = fault(trace, rules)
      if not reason:
        reason = _seen(trace, texts, sequences)
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
      by_steps[everything[i].checked].append(i)
    for count, numbers in by_steps.items():
      turns[count].append(numbers)
  if rules.max_per_step_count:
    for groups in turns.values():
      for i in _in_turns(groups)[rules.max_per_step_count :]:
        reasons[i] = traces_lib.OVER_STEPS
  kept = [t for i, t in enumerate(everything) if i not in reasons]
  rejected = [(everything[i], reason) for i, reason in sorted(reasons.items())]
  return kept, rejected


def _seen(trace, texts, sequences):
  """Whether it repeats what a problem has; takes note of it otherwise."""
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
