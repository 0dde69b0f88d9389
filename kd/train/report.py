"""Writes the report of a run: tables, gaps to the teacher, curves."""

from collections.abc import Mapping, Sequence
import os

from kd.checkpoints import manager
from kd.core import atomic_files
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results
from kd.evaluation import side_by_side
from kd.evaluation import table
from kd.run import outputs
from kd.run import resolved
from kd.train import best
from kd.train import curves
from kd.train import early_stop
from kd.train import evaluation_records
from kd.train import operations
from kd.train import profiling

FILE = 'report.md'
TEACHER, BEFORE = 'teacher', 'student before'
AFTER, CROSS_ENTROPY = 'student after', 'cross-entropy alone'
_BRACKETS = 'brackets: 95% intervals, bootstrap over examples'
_AND_SEEDS = ", and Student's t over seeds"


def _read(folder: str, name: str) -> results.Result | None:
  record = results.read(evaluation_records.path(folder, name))
  return record and record[1]


def columns(
  workdir: str, ends: Mapping[str, early_stop.End]
) -> dict[str, results.Result]:
  """Returns the recorded evaluations by column title.

  Args:
    workdir: the run's folder.
    ends: ends of training of 'student' and, if there is one, of the baseline.
  """
  baseline = os.path.join(workdir, outputs.BASELINE)
  found = {
    TEACHER: _read(workdir, 'teacher'),
    BEFORE: _read(workdir, 'step_0'),
    AFTER: _read(workdir, f'step_{ends["student"].step}'),
  }
  if outputs.BASELINE in ends:
    step = ends[outputs.BASELINE].step
    found[CROSS_ENTROPY] = _read(baseline, f'step_{step}')
  return {title: result for title, result in found.items() if result}


def set_table(
  columns_: Mapping[str, results.Result],
  set_name: str,
  gap: tuple[str, str, str] = (AFTER, CROSS_ENTROPY, TEACHER),
  seeds: Mapping[str, Sequence[results.Result]] | None = None,
) -> table.Table:
  """Returns the table of a held-out set with one column per model.

  Args:
    columns_: results by column title.
    set_name: name of the set.
    gap: titles of student, baseline and teacher, for the notes on the share of
      the gap that the student closed.
    seeds: the runs of which a column is the mean, by title. Their spread widens
      the intervals, and the share of the gap is not computed.
  """
  seeds = {k: runs for k, runs in (seeds or {}).items() if len(runs) > 1}
  models = list(columns_.values())
  every = {m: None for model in models for m in measures.of(model, set_name)}
  rows = []
  for measure in every:
    cells = [
      measures.value(x, set_name, measure, seeds.get(title, ()))
      for title, x in columns_.items()
    ]
    if measures.is_shown(measure, cells):
      rows.append(table.TableRow(measure.title, cells))
  for task in measures.tasks(models[0], set_name):
    for measure in every:
      if measure.is_main:
        name = f'eval/{set_name}/{task}/{measure.metric}'
        cells = [x.metrics.get(name) for x in models]
        if cells == [None] * len(cells):
          continue  # The task lacks the metric.
        rows.append(table.TableRow(f'{measure.title}: {task}', cells))
  notes = [_BRACKETS + (_AND_SEEDS if seeds else '')]
  notes += [] if seeds else _gaps(columns_, set_name, gap)
  return table.Table(list(columns_), rows, notes)


def _gaps(columns_, set_name, wanted):
  """Returns notes on the share of the gap that the student closed."""
  if not all(title in columns_ for title in wanted):
    return []
  notes = []
  for measure in measures.of(columns_[wanted[0]], set_name):
    if not measure.is_main:
      continue
    examples = [
      measures.per_example(columns_[title], set_name, measure)
      for title in wanted
    ]
    if all(examples):
      values = [values for values, _ in examples]
      gap = intervals.gap_share(*values, examples[0][1])
      notes.append(table.gap_note(measure.title, gap))
  return notes


# Functions that render an example, in this order.
_SHOWN = side_by_side.pictures, side_by_side.block


def _examples(columns_, set_name):
  """Returns the answers of all models to a few examples."""
  answers = {
    title: [x for x in result.answers if x['set'] == set_name]
    for title, result in columns_.items()
  }
  if not answers[AFTER]:
    return []
  chosen = side_by_side.choose(answers, AFTER)
  shown = (f(x) for x in chosen for f in _SHOWN)
  return ['Some answers:', *filter(None, shown)]


def precision_lines(
  run: resolved.Run, metrics: Mapping[str, float]
) -> list[str]:
  """Returns a line per held-out set on the loss of a quantized teacher.

  Args:
    run: the run.
    metrics: metrics of its first teacher.
  """
  if run.teacher is None or not run.config.teacher.quantize.measure:
    return []
  if run.teacher.module.core is run.teacher.module:
    return []
  return [
    f'The quantized teacher differs by {metrics[key]:.5f} nats (KL) from its '
    f'full-precision weights on {name}.'
    for name in run.config.evaluation.sets
    if (key := f'eval/{name}/kl') in metrics
  ]


def _best_line(run, workdir, described):
  """Returns a line that names the best checkpoint."""
  chosen = best.choose(run.config, described)
  step = manager.best_step(workdir)
  where = 'none was measured' if step is None else f'step {step}'
  line = f'Best checkpoint ({chosen}): {where}.'
  if run.config.evaluation.params == 'ema':
    line += (
      ' Evaluations are of averaged parameters, with ema.decay '
      f'{run.config.ema.decay:g}.'
    )
  return line


def _profile_line(workdir):
  """Returns a line on the longest operations if steps were traced."""
  path = os.path.join(profiling.FOLDER, operations.MARKDOWN)
  if not os.path.isfile(os.path.join(workdir, path)):
    return []
  return [f'Longest operations of the traced steps: {path}.']


def _end_lines(ends):
  """Returns a line for each student whose training ended early."""
  return [
    f'The {label} ended after step {end.step}: {end.reason}.'
    for label, end in ends.items()
    if end.reason
  ]


def write(
  run: resolved.Run, workdir: str, ends: Mapping[str, early_stop.End]
) -> str:
  """Writes report.md and its picture; returns the tables for a terminal.

  Args:
    run: the run that has ended.
    workdir: its folder.
    ends: ends of training of 'student' and, if there is one, of the baseline.
  """
  found = columns(workdir, ends)
  if not found:
    return 'no held-out set, so no report'
  names = sorted(found[AFTER].scores)
  markdown, text = ['# Report'], []
  for name in names:
    sizes = measures.counts(found[AFTER], name)
    counted = ', '.join(
      f'{v:,} {k.replace("_", " ")}' for k, v in sizes.items()
    )
    title = f'{name}: {counted}'
    rendered = set_table(found, name)
    markdown += [f'## {title}', table.markdown(rendered)]
    markdown += _examples(found, name)
    text += [title, table.text(rendered)]
  lines = _end_lines(ends)
  if TEACHER in found:
    lines += precision_lines(run, found[TEACHER].metrics)
  lines.append(_best_line(run, workdir, found[AFTER].descriptions))
  lines += _profile_line(workdir)
  markdown += [*lines, f'![held-out metrics by step]({curves.FILE})']
  start = curves.evaluations(workdir)
  students = {'student': start}
  if run.config.evaluation.baseline:
    baseline = curves.evaluations(os.path.join(workdir, outputs.BASELINE))
    # Both students start from the same parameters, evaluated once.
    first = {step: result for step, result in start.items() if step == 0}
    students[CROSS_ENTROPY] = first | baseline
  curves.draw(
    os.path.join(workdir, curves.FILE), names, students, found.get(TEACHER)
  )
  atomic_files.write_text(
    os.path.join(workdir, FILE), '\n\n'.join(markdown) + '\n'
  )
  path = os.path.join(workdir, FILE)
  return '\n'.join([*text, *lines, f'report: {path}'])
