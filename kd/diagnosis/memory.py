"""Diagnoses of memory: its largest uses and ways to reduce them."""

from collections.abc import Sequence
import re

from kd.board import status
from kd.diagnosis import findings
from kd.diagnosis import run_record
from kd.planning import suggestions
from kd.planning import tables

OUT, NEARLY = 'out of memory', 'memory nearly full'
_MESSAGE = re.compile(
  r'RESOURCE_EXHAUSTED|out of memory|MemoryError|bad_alloc|cannot allocate',
  re.IGNORECASE,
)
_NEARLY_FULL = 0.95  # of the memory
_SHOWN = 3  # changes that reduce memory
_LONGEST = 200  # characters of a message


@findings.DIAGNOSES.register(OUT)
def out_of_memory(record: run_record.RunRecord) -> findings.Finding | None:
  """The run ran out of memory, or was killed with hardly any left."""
  text = str(record.failure.get('error'))
  if record.failure and _MESSAGE.search(text):
    first = text.splitlines()[0][:_LONGEST]
    return _finding(record, first, 1.0)
  used = _used(record)
  if record.status.name != status.STOPPED or used is None:
    return None
  kind, peak, limit = used
  if peak < _NEARLY_FULL * limit:
    return None
  return _finding(
    record,
    f'the run ended without a message, and its last lines have {kind} memory '
    f'at {peak / limit:.0%} of {tables.gib(limit)} GiB: the system kills such '
    'a process',
    0.7,
  )


@findings.DIAGNOSES.register(NEARLY)
def nearly_full(record: run_record.RunRecord) -> findings.Finding | None:
  """A finished run used 95 % of the memory of its host or of a device."""
  used = _used(record)
  if used is None or record.status.name != status.FINISHED:
    return None
  kind, peak, limit = used
  if peak < _NEARLY_FULL * limit:
    return None
  evidence = (
    f'{kind} memory peaked at {tables.gib(peak)} of {tables.gib(limit)} GiB'
  )
  return _finding(record, evidence, 0.3)


def _used(record) -> tuple[str, float, float] | None:
  """Returns the fuller memory: 'device' or 'host', peak and size in bytes."""
  both = []
  lines = [*record.train, *(record.baseline.train if record.baseline else ())]
  for kind in ('device', 'host'):
    limit = record.run.get(f'{kind}_bytes')
    peaks = run_record.values(lines, f'perf/{kind}_peak_bytes')
    if limit and peaks:
      both.append((kind, max(peaks), float(limit)))
  return max(both, key=lambda x: x[1] / x[2], default=None)


def _finding(record, evidence, likelihood) -> findings.Finding:
  remedy = (
    'halve data.batch_size or double optimizer.micro_batches; student.remat='
    'block; --mode=plan shows what a run needs'
  )
  estimate = record.estimate
  if estimate is None:
    return findings.Finding(evidence, remedy, likelihood)
  kinds = estimate.phases[estimate.peak]
  largest = sorted(kinds.items(), key=lambda x: -x[1])
  held = _list(
    f'{tables.TITLES[kind]} {tables.gib(size)}'
    for kind, size in largest[:_SHOWN]
    if size
  )
  evidence += (
    f'; by the formulas of --mode=plan a device needs '
    f'{tables.gib(estimate.total)} GiB, most of it for {held}'
  )
  reductions = suggestions.reductions(record.parsed_config, estimate)
  best = [
    f'{flags} ({tables.gib(saved)} GiB less)'
    for saved, flags in sorted(reductions, reverse=True)[:_SHOWN]
    if saved > 0
  ]
  if best:
    remedy = 'one of: ' + '; '.join(best)
  return findings.Finding(evidence, remedy, likelihood)


def _list(parts: Sequence[str]) -> str:
  return ', '.join(parts)
