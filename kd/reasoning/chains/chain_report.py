"""Reports sampled chains of thought: counts, and a page with examples."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from kd.reasoning.arithmetic import answers
from kd.reasoning.arithmetic import steps as steps_lib
from kd.reasoning.chains import traces as traces_lib

Trace = traces_lib.Trace

_EXAMPLES = 2  # Number of examples of each kind.
_MAX_CHARS = 600  # Maximum length of an example.


def summarize(
  by_problem: Sequence[Sequence[Trace]],
  kept: Sequence[Trace],
  rejected: Sequence[tuple[Trace, str]],
) -> dict[str, Any]:
  """Returns counts and fractions of a set of traces.

  Args:
    by_problem: all traces of each problem.
    kept: the accepted traces.
    rejected: the rejected traces with reasons.

  Returns:
    problems, samples, tokens; accepted, acceptance (fraction of the samples),
    problems_with_traces; reasons, steps (statements by verdict) and kept_steps
    (traces by number of right statements) as counts by name; references (number
    of problems with a readable reference) and, for those problems only,
    sample_accuracy, vote_accuracy and any_right: fractions from 0 to 1, or None
    without references.
  """
  all_traces = [t for group in by_problem for t in group]
  known = [g for g in by_problem if g and g[0].right is not None]
  known_traces = [t for group in known for t in group]
  voted = [g[0].vote.winner == g[0].reference for g in known]
  steps = collections.Counter(s.kind for t in all_traces for s in t.steps)
  reasons = collections.Counter(reason for _, reason in rejected)
  lengths = collections.Counter(t.checked for t in kept)
  return {
    'problems': len(by_problem),
    'samples': len(all_traces),
    'tokens': sum(t.sampled.tokens for t in all_traces),
    'accepted': len(kept),
    'acceptance': _fraction(len(kept), len(all_traces)),
    'problems_with_traces': len({t.question.id for t in kept}),
    'reasons': {r: reasons[r] for r in traces_lib.REASONS if reasons[r]},
    'steps': {k: steps[k] for k in steps_lib.KINDS if steps[k]},
    'kept_steps': {str(n): lengths[n] for n in sorted(lengths)},
    'references': len(known),
    'sample_accuracy': _fraction(
      sum(t.right for t in known_traces), len(known_traces)
    ),
    'vote_accuracy': _fraction(sum(voted), len(known)),
    'any_right': _fraction(
      sum(any(t.right for t in g) for g in known), len(known)
    ),
  }


def _fraction(part: int, whole: int) -> float | None:
  return part / whole if whole else None


def page(
  summary: Mapping[str, Any],
  identity: Mapping[str, Any],
  kept: Sequence[Trace],
  rejected: Sequence[tuple[Trace, str]],
) -> str:
  """Returns the report in markdown.

  Args:
    summary: from `summarize`.
    identity: the settings that determined the samples.
    kept: the accepted traces.
    rejected: the rejected traces with reasons.
  """
  parts = [
    '# Chains of thought\n',
    f'{summary["accepted"]:,} of {summary["samples"]:,} samples are kept '
    f'({_percent(summary["acceptance"])}), for '
    f'{summary["problems_with_traces"]:,} of {summary["problems"]:,} problems; '
    f'{summary["tokens"]:,} tokens were sampled.\n',
    _accuracy(summary),
    _table('why samples are not kept', summary['reasons']),
    _table('statements, by verdict', summary['steps']),
    _table('kept traces, by number of right statements', summary['kept_steps']),
    _table('what decided the samples', identity),
    '## Kept\n',
    *(_example(trace, '') for trace in kept[:_EXAMPLES]),
    '## Not kept\n',
  ]
  shown: dict[str, int] = collections.Counter()
  for trace, reason in rejected:
    shown[reason] += 1
    if shown[reason] <= _EXAMPLES:
      parts.append(_example(trace, reason))
  return '\n'.join(part for part in parts if part)


def _percent(fraction: float | None) -> str:
  return 'none' if fraction is None else f'{fraction:.1%}'


def _accuracy(summary):
  if not summary['references']:
    return 'No problem has a reference that can be read.\n'
  return (
    f'Of {summary["references"]:,} problems with a reference: one sample is '
    f'right {_percent(summary["sample_accuracy"])} of the time, the vote of '
    f'all samples {_percent(summary["vote_accuracy"])}, any of them '
    f'{_percent(summary["any_right"])}.\n'
  )


def _table(head: str, rows: Mapping[str, Any]) -> str:
  if not rows:
    return ''
  lines = [f'| {head} | |', '| --- | ---: |']
  for key, value in rows.items():
    shown = f'{value:,}' if isinstance(value, int) else _cell(str(value))
    lines.append(f'| {key} | {shown} |')
  return '\n'.join(lines) + '\n'


def _cell(text: str) -> str:
  return text.replace('|', '\\|').replace('\n', ' ')[:200]


def _example(trace: Trace, reason: str) -> str:
  """Formats a trace, indented so that its text is not parsed as markdown."""
  answer, reference = trace.answer, trace.reference
  lines = [f'**{trace.id}**' + (f': {reason}' if reason else '')]
  shown_answer = (
    answer.reason if answer.value is None else trace.kind.shown(answer.value)
  )
  expected = (
    'unknown' if reference is None else _cell(trace.kind.shown(reference))
  )
  lines += [f'answer: {_cell(shown_answer)}; reference: {expected}', '']
  shown = (
    f'{_truncate(trace.question.inputs)}\n---\n{_truncate(trace.sampled.text)}'
  )
  lines += [f'    {line}' for line in shown.splitlines()]
  wrong = [s for s in trace.steps if s.kind in steps_lib.ERRORS][:4]
  if wrong:
    lines.append('')
  for step in wrong:
    expected = (
      '' if step.expected is None else f' (is {answers.to_text(step.expected)})'
    )
    lines.append(f'- {step.kind}: `{_cell(step.text)}`{expected}')
  return '\n'.join(lines) + '\n'


def _truncate(text: str) -> str:
  return text if len(text) <= _MAX_CHARS else f'{text[:_MAX_CHARS]} [...]'
