"""Plots held-out metrics by step, with confidence intervals."""

from collections.abc import Mapping, Sequence
import os
import re

from kd.core import atomic_files
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results
from kd.run import outputs

FILE = 'curves.png'
_LIKELIHOODS = (measures.NLL, measures.KL, measures.AGREEMENT)
_MOST_OF_TASKS = 3  # Maximum number of panels of task metrics.
_STEP = re.compile(r'step_([0-9]+)\.json')
_COLOURS = ('tab:blue', 'tab:orange')


def evaluations(folder: str) -> dict[int, results.Result]:
  """Returns the recorded evaluations of a student by step."""
  where = os.path.join(folder, outputs.EVALUATIONS)
  names = os.listdir(where) if os.path.isdir(where) else []
  found = {}
  for name in names:
    step = step_of(name)
    if step is None:
      continue
    recorded = results.read(os.path.join(where, name))
    if recorded:
      found[step] = recorded[1]
  return dict(sorted(found.items()))


def step_of(name: str) -> int | None:
  """Returns the step of a file of `evaluations`; None for other files."""
  match = _STEP.fullmatch(name)
  return int(match[1]) if match else None


def draw(
  path: str,
  set_names: Sequence[str],
  students: Mapping[str, Mapping[int, results.Result]],
  teacher: results.Result | None,
) -> None:
  """Draws a row of panels for each held-out set.

  Args:
    path: path of the PNG file.
    set_names: names of the held-out sets.
    students: evaluations by label and step.
    teacher: evaluation of the teacher, drawn as a line.
  """
  import matplotlib  # Slow to import.

  matplotlib.use('Agg')
  from matplotlib import pyplot

  panels = _panels(set_names, students)
  figure, axes = pyplot.subplots(
    len(set_names),
    len(panels),
    figsize=(3.3 * len(panels), 2.9 * len(set_names)),
    squeeze=False,
    layout='constrained',
  )
  for row, name in zip(axes, set_names, strict=True):
    for axis, panel in zip(row, panels, strict=True):
      _panel(axis, panel, name, students, teacher)
    # A name may contain '$', which would begin a formula.
    row[0].set_ylabel(name, parse_math=False)
  handles, labels = axes[0][0].get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc='outside lower center',
    ncols=len(labels),
    frameon=False,
  )
  atomic_files.write_picture(path, figure, dpi=130)
  pyplot.close(figure)


def _panels(set_names, students):
  """Returns the measures to draw: first of likelihood, then of tasks."""
  measured = dict.fromkeys(
    measure
    for by_step in students.values()
    for result in by_step.values()
    for name in set_names
    for measure in measures.of(result, name)
  )
  of_tasks = [m for m in measured if m.is_main and not m.by_token]
  likelihoods = [m for m in measured if m.metric in _LIKELIHOODS]
  return likelihoods + of_tasks[:_MOST_OF_TASKS]


def _panel(axis, panel, set_name, students, teacher):
  from matplotlib import ticker

  levels = []
  for (label, by_step), colour in zip(students.items(), _COLOURS, strict=False):
    points = {
      step: measures.value(result, set_name, panel)
      for step, result in by_step.items()
    }
    points = {
      step: point
      for step, point in points.items()
      if isinstance(point, intervals.Interval)
    }
    if points:
      bounds = [(p.value, p.low, p.high) for p in points.values()]
      middle, low, high = zip(*bounds, strict=True)
      steps = list(points)
      axis.plot(steps, middle, '.-', color=colour, label=label, markersize=5)
      axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
      levels += low + high
  if teacher is not None:
    level = teacher.metrics.get(f'eval/{set_name}/{panel.metric}')
    # Its divergence from itself is always 0.
    if level is not None and panel.metric != measures.KL:
      levels.append(level)
      axis.axhline(
        level, color='grey', linestyle='--', linewidth=1, label='teacher'
      )
  axis.margins(y=0.08)
  if panel.metric in (measures.NLL, measures.KL):
    _scale(axis, levels)
  axis.xaxis.set_major_locator(
    ticker.MaxNLocator(5, integer=True, steps=(1, 2, 5, 10))
  )
  axis.set_xlabel('step')
  axis.set_title(panel.title, fontsize=10)
  axis.grid(alpha=0.3)


def _scale(axis, levels):
  """Uses a logarithmic axis for values that span more than one decade."""
  from matplotlib import ticker

  lowest, highest = min(levels, default=0), max(levels, default=0)
  if lowest <= 0 or highest < 10 * lowest:
    return
  axis.set_yscale('log')
  subs = (1, 2, 5) if highest < 500 * lowest else (1,)
  axis.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
  axis.yaxis.set_major_formatter('{x:g}')
  axis.yaxis.set_minor_formatter(ticker.NullFormatter())
