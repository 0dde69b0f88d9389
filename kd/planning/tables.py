"""A plan for people: a table on the terminal, one in Markdown, a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.planning import buffers
from kd.planning import estimates
from kd.planning import programs

_GIB = 2**30
_COLUMNS = (
  *('teacher', 'student', 'slice', 'tokens a row', 'rows', 'GiB a chip'),
  'on paper',
  *buffers.KINDS,
  *('counted', 'most in', 'fits', 'TFLOP a chip', 'on paper'),
  *('step, s', 'bound by', 'MFU', 'tokens a day', 'run, h', 'US$'),
)


def names(estimate: estimates.Estimate) -> tuple[str, str]:
  """Teachers and student, as the config names them."""
  config = estimate.run.config
  named = lambda spec: spec.variant or spec.init
  teachers = [named(config.teacher)] if estimate.run.teachers else []
  teachers += [named(spec) for _, spec in sorted(config.teacher.others.items())]
  return ' and '.join(teachers) or 'none', named(config.student)


def gib(size: float) -> str:
  """Bytes in GiB, as every table and message has them."""
  return f'{size / _GIB:.2f}'


def _flops(estimate, unit):
  return sum(c.flops for c in estimate.step_costs) / unit


def _fits(estimate):
  return 'no: ' + ', '.join(estimate.refused) if estimate.refused else 'yes'


def _dollars(estimate):
  return f'{estimate.dollars:,.0f}' if estimate.run.config.plan.price else '-'


def _rows(estimate, paper):
  """(title, text) of each line of the terminal's table."""
  phase = estimate.phases[estimate.peak]
  limit = estimate.chosen.chip.hbm_bytes
  yield f'GiB a chip, of {gib(limit)}', gib(estimate.total)
  for kind in buffers.KINDS:
    yield f'  {kind}', gib(phase[kind])
  yield '  most while running', estimate.peak
  for name, size in estimate.peaks.items():
    yield f'  in {name}', gib(size)
  yield '  on paper', gib(paper.total)
  yield "GiB of the host's, a chip", gib(estimate.host)
  yield 'fits', _fits(estimate)
  yield 'TFLOP a chip and step', f'{_flops(estimate, 1e12):.3g}'
  yield '  on paper', f'{_flops(paper, 1e12):.3g}'
  for title, key in (('memory', 'hbm'), ('network', 'ici')):
    yield (
      f'GB a chip and step, {title}',
      f'{sum(getattr(c, key) for c in estimate.step_costs) / 1e9:.3g}',
    )
    yield (
      '  on paper',
      f'{sum(getattr(c, key) for c in paper.step_costs) / 1e9:.3g}',
    )
  yield 'step, s, at least', f'{estimate.seconds:.3g}'
  yield '  bound by', estimate.bound
  yield 'MFU, at most', f'{estimate.mfu:.0%}'
  yield 'tokens a day, at most', f'{estimate.tokens_a_day:.2e}'
  yield 'run, hours, at least', f'{estimate.hours:,.1f}'
  yield 'run, US$, at least', _dollars(estimate)


def terminal(
  found: Sequence[estimates.Estimate], paper: Sequence[estimates.Estimate]
) -> str:
  """What was planned, lengths side by side.

  Args:
    found: by length.
    paper: the same, counted on paper.
  """
  first = found[0]
  teacher, student = names(first)
  config = first.run.config
  mesh = ' x '.join(f'{axis} {n}' for axis, n in first.run.mesh.shape.items())
  lines = [
    f'{teacher} to {student} on {first.chosen.name}: '
    f'{first.chosen.count} chips, {mesh}',
    f'{config.data.batch_size} rows a step in '
    f'{config.optimizer.micro_batches} micro-batches, remat '
    f'{config.student.remat}, attention by {first.run.student.module.kernel}',
    _line('tokens a row', [f'{e.run.config.data.length:,}' for e in found]),
  ]
  columns = [list(_rows(e, p)) for e, p in zip(found, paper, strict=True)]
  longest = max(columns, key=len)
  for number, (title, _) in enumerate(longest):
    cells = [c[number][1] if number < len(c) else '-' for c in columns]
    lines.append(_line(title, cells))
  return '\n'.join(lines)


def _line(title, cells):
  return f'{title:<30}' + ''.join(f'{cell:>15}' for cell in cells)


def record(
  estimate: estimates.Estimate,
  paper: estimates.Estimate,
  advice: Sequence[str],
) -> dict[str, Any]:
  """A row of plan.json: numbers, and what they are of.

  Args:
    estimate: what the compiler found.
    paper: the same on paper.
    advice: what would make it fit.
  """
  teacher, student = names(estimate)
  config = estimate.run.config
  return {
    'teacher': teacher,
    'student': student,
    'batch_size': config.data.batch_size,
    'micro_batches': config.optimizer.micro_batches,
    'remat': config.student.remat,
    'mesh': dict(estimate.run.mesh.shape),
    'teacher_devices': config.teacher.devices,
    'teacher_mesh': dict(config.teacher.mesh),
    **estimates.as_json(estimate),
    'paper': estimates.as_json(paper),
    'advice': list(advice),
  }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows of plan.json as one table."""
  lines = [
    '| ' + ' | '.join(_COLUMNS) + ' |',
    '|' + ' --- |' * len(_COLUMNS),
  ]
  order = ('teacher', 'student', 'topology', 'length')
  for row in sorted(rows, key=lambda row: [row[key] for key in order]):
    lines.append('| ' + ' | '.join(_cells(row)) + ' |')
  return '\n'.join(lines) + '\n'


def _cells(row):
  total = lambda part: sum(
    p['flops']
    for name, p in part['programs'].items()
    if name != programs.DECODE
  )
  cells = [
    *(row['teacher'], row['student'], row['topology']),
    f'{row["length"]:,}',
    str(row['batch_size']),
    f'{gib(row["peak_bytes"])} of {gib(row["hbm_bytes"])}',
    gib(row['paper']['peak_bytes']),
    *(gib(row['bytes'][kind]) for kind in buffers.KINDS),
    'on paper' if row['source'] == estimates.PAPER else 'compiled',
    row['peak_program'],
    'yes' if row['fits'] else 'no: ' + ', '.join(row['does_not_fit']),
  ]
  return [
    *cells,
    f'{total(row) / 1e12:.1f}',
    f'{total(row["paper"]) / 1e12:.1f}',
    f'{row["step_seconds"]:.3g}',
    row['bound'],
    f'{row["mfu"]:.0%}',
    f'{row["tokens_a_day"]:.2g}',
    f'{row["run_hours"]:,.1f}',
    f'{row["dollars"]:,.0f}' if row['dollars'] else '-',
  ]
