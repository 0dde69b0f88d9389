"""Formats a plan as a terminal table, as JSON and as a Markdown table."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from kd.core import identity
from kd.planning import programs
from kd.planning.cost import estimates
from kd.planning.cost import stages as stages_lib
from kd.planning.cost import tower_flops
from kd.planning.hlo import buffers

_GIB = 2**30
TITLES = {
  'parameters': 'parameters',
  'optimizer': 'optimizer state',
  'gradients': 'gradients',
  'activations': 'activations',
  'kv_cache': 'KV cache',
  'teacher': 'teacher',
  'collectives': 'gathered weights',
  'temporaries': 'temporaries',
}
_COLUMNS = (
  *('teacher', 'student', 'slice', 'tokens per row', 'rows', 'GiB per chip'),
  'by formula',
  *(TITLES[kind] for kind in buffers.KINDS),
  *('source', 'peak in', 'fits', 'TFLOP per chip', 'by formula'),
  *('bound by', 'MFU at most', 'step, s', 'run, h', 'US$'),
  *('MFU', 'step, s', 'run, h', 'US$'),
)


def names(estimate: estimates.Estimate) -> tuple[str, str]:
  """Returns the names of the teachers and of the student in the config."""
  config = estimate.run.config
  name_of = lambda spec: spec.variant or spec.init
  teachers = [name_of(config.teacher)] if estimate.run.teachers else []
  teachers += [
    name_of(spec) for _, spec in sorted(config.teacher.others.items())
  ]
  return ' and '.join(teachers) or 'none', name_of(config.student)


def gib(size: float) -> str:
  """Formats bytes as GiB, the unit of every table and message."""
  return f'{size / _GIB:.2f}'


def _flops(estimate, unit):
  return sum(c.flops for c in estimate.step_costs) / unit


def _fits(estimate):
  return (
    'no: ' + ', '.join(estimate.does_not_fit)
    if estimate.does_not_fit
    else 'yes'
  )


def _dollars(speed):
  return f'{speed["dollars"]:,.2f}' if speed['dollars'] else '-'


def _rows(estimate, analytic):
  """Yields the title and the text of each line of the terminal table."""
  phase = estimate.phases[estimate.peak]
  limit = estimate.chosen.chip.hbm_bytes
  yield f'GiB per chip, of {gib(limit)}', gib(estimate.total)
  for kind in buffers.KINDS:
    yield f'  {TITLES[kind]}', gib(phase[kind])
  yield '  peak while running', estimate.peak
  for name, size in estimate.peaks.items():
    yield f'  in {name}', gib(size)
  yield '  by formula', gib(analytic.total)
  yield 'GiB per chip in host memory', gib(estimate.host)
  yield 'fits', _fits(estimate)
  yield 'TFLOP per chip and step', f'{_flops(estimate, 1e12):.3g}'
  yield '  by formula', f'{_flops(analytic, 1e12):.3g}'
  yield from _tower(estimate.run)
  moved = [('HBM', 'hbm'), ('network', 'ici')]
  if any(c.fetched for c in estimate.step_costs):
    moved.append(("teachers from the host's memory", 'fetched'))
  for title, key in moved:
    total = lambda e, key=key: sum(getattr(c, key) for c in e.step_costs)
    yield f'GB per chip and step, {title}', f'{total(estimate) / 1e9:.3g}'
    yield '  by formula', f'{total(analytic) / 1e9:.3g}'
  yield from _stages(estimate.run)
  yield 'at most (roofline): MFU', f'{estimate.limit.mfu:.0%}'
  yield '  bound by', estimate.bound
  yield from _speed(estimate.limit)
  yield 'expected: MFU', f'{estimate.expected.mfu:.0%}'
  yield from _speed(estimate.expected)


def _tower(run):
  """Yields lines on the towers' operations in a step, by formula."""
  tower = tower_flops.step(run)
  if tower is None:
    return
  per_chip = lambda value: f'{value / run.mesh.size / 1e12:.3g}'
  whole = tower.teachers + tower.forward + tower.backward
  yield '  in vision towers', per_chip(whole)
  yield "    the student's, backward", per_chip(tower.backward)
  if tower.backward:
    yield '    saved if it is frozen', per_chip(tower.saved_if_frozen)
  if tower.saved_if_kept:
    yield '    saved if its output is kept', per_chip(tower.saved_if_kept)


def _stages(run):
  """Yields lines on the cost of the student's stages, by formula."""
  stages = stages_lib.of_update(run)
  if stages.count == 1:
    return
  yield 'pipeline bubble', f'{stages.bubble:.0%}'
  yield '  parts of a micro-batch', str(stages.micro_batches)
  sent = stages_lib.sent_in_update(run)
  yield '  GB between stages', f'{sent / 1e9:.3g}'


def _speed(speed):
  yield '  step, s', f'{speed.seconds:.3g}'
  yield '  tokens per day', f'{speed.tokens_a_day:.2e}'
  yield '  run, hours', f'{speed.hours:,.1f}'
  yield '  run, US$', _dollars(dataclasses.asdict(speed))


def terminal(
  planned: Sequence[estimates.Estimate], analytic: Sequence[estimates.Estimate]
) -> str:
  """Returns the plan as a table with a column for each length.

  Args:
    planned: an estimate for each length.
    analytic: the estimates by formula, in the same order.
  """
  first = planned[0]
  teacher, student = names(first)
  config = first.run.config
  mesh = ' x '.join(f'{axis} {n}' for axis, n in first.run.mesh.shape.items())
  lines = [
    f'{teacher} to {student} on {first.chosen.name}: '
    f'{first.chosen.count} chips, {mesh}',
    f'{config.data.batch_size} rows per step in '
    f'{config.optimizer.micro_batches} micro-batches, remat '
    f'{config.student.remat}, attention by {first.run.student.module.kernel}',
    _line('tokens per row', [f'{e.run.config.data.length:,}' for e in planned]),
  ]
  columns = [list(_rows(e, p)) for e, p in zip(planned, analytic, strict=True)]
  longest = max(columns, key=len)
  for number, (title, _) in enumerate(longest):
    cells = [c[number][1] if number < len(c) else '-' for c in columns]
    lines.append(_line(title, cells))
  return '\n'.join(lines)


def _line(title, cells):
  return f'{title:<30}' + ''.join(f'{cell:>15}' for cell in cells)


def record(
  estimate: estimates.Estimate,
  analytic: estimates.Estimate,
  advice: Sequence[str],
) -> dict[str, Any]:
  """Returns a row of plan.json.

  Args:
    estimate: estimate of the compiler, or `analytic` if nothing was compiled.
    analytic: estimate by formula.
    advice: changes that would make the run fit.
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
    'digest': _digest(estimate),
    **estimates.as_json(estimate),
    'paper': estimates.as_json(analytic),
    'advice': list(advice),
  }


# Fields that select what to plan; they do not affect the numbers of a row.
_SELECTION = ('lengths', 'topology', 'compile', 'search', 'compiled', 'folder')


def _digest(estimate):
  """Returns a digest of all inputs of the row except package versions."""
  run, config = estimate.run, estimate.run.config.to_dict()
  for name in _SELECTION:
    del config['plan'][name]
  models = [run.student, *run.teacher_models]
  sizes = [model.config.to_dict() for model in models]
  return identity.digest([config, sizes, estimate.chosen.name])


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the rows of plan.json as one table."""
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
  compiled = row['source'] == estimates.COMPILER
  speed = lambda s: (
    f'{s["seconds"]:.3g}',
    f'{s["hours"]:,.1f}',
    _dollars(s),
  )
  return [
    *(row['teacher'], row['student'], row['topology']),
    f'{row["length"]:,}',
    str(row['batch_size']),
    f'{gib(row["peak_bytes"])} of {gib(row["hbm_bytes"])}',
    gib(row['paper']['peak_bytes']),
    *(gib(row['bytes'][kind]) for kind in buffers.KINDS),
    f'compiled {row["date"]}' if compiled else 'formula',
    row['peak_program'],
    'yes' if row['fits'] else 'no: ' + ', '.join(row['does_not_fit']),
    f'{total(row) / 1e12:.1f}',
    f'{total(row["paper"]) / 1e12:.1f}',
    row['bound'],
    f'{row["limit"]["mfu"]:.0%}',
    *speed(row['limit']),
    f'{row["expected"]["mfu"]:.0%}',
    *speed(row['expected']),
  ]
