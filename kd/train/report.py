"""The report that a run ends with: a table, what helped, a picture."""

from collections.abc import Mapping, Sequence
import json
import math
import os
from typing import Any

from kd.core import run_info
from kd.evaluation import intervals
from kd.evaluation import table
from kd.train import outputs
from kd.train import resolve

FILE = 'report.md'
CURVES = 'curves.png'
_ROWS = (  # metric, title, whether it is a sum over target tokens
  ('nll', 'NLL, nats a token', True),
  ('perplexity', 'perplexity', True),
  ('kl', 'KL to the teacher, nats a token', True),
  ('agreement', 'top-1 agreement with the teacher', True),
  ('exact_match', 'exact match', False),
)
_GAPS = (_ROWS[0], _ROWS[-1])
TEACHER, BEFORE = 'teacher', 'student before'
AFTER, CROSS_ENTROPY = 'student after', 'cross-entropy alone'


def _read(folder: str, name: str) -> dict[str, Any] | None:
  path = os.path.join(folder, outputs.EVALUATIONS, f'{name}.json')
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as f:
    return json.load(f)


def columns(workdir: str, steps: int) -> dict[str, dict[str, Any]]:
  """The evaluations that there are, by title."""
  baseline = os.path.join(workdir, outputs.BASELINE)
  found = {
    TEACHER: _read(workdir, 'teacher'),
    BEFORE: _read(workdir, 'step_0'),
    AFTER: _read(workdir, f'step_{steps}'),
    CROSS_ENTROPY: _read(baseline, f'step_{steps}'),
  }
  return {title: result for title, result in found.items() if result}


def _per_example(
  scores: Mapping[str, Sequence[float]], metric: str, by_token: bool
) -> tuple[list[float], list[float] | None]:
  """Each example's mean, and what it weighs."""
  if not by_token:
    return list(scores[metric]), None
  weights = list(scores['weight'])
  return [s / w for s, w in zip(scores[metric], weights, strict=True)], weights


def _cell(scores, metric, by_token):
  """The metric's interval over examples, None where it was not measured."""
  source = 'nll' if metric == 'perplexity' else metric
  if source not in scores:
    return None
  interval = intervals.mean(*_per_example(scores, source, by_token))
  if metric == 'perplexity':
    return interval.map(lambda x: math.exp(min(x, 700.0)))
  return interval


def _table(found, name):
  """Models in columns, and what share of the gap was closed below."""
  scores = {title: result['scores'][name] for title, result in found.items()}
  rows = []
  for metric, title, by_token in _ROWS:
    cells = [_cell(s, metric, by_token) for s in scores.values()]
    if any(cell is not None for cell in cells):
      rows.append(table.Row(title, cells))
  notes = ['brackets: 95% intervals, bootstrap over examples']
  wanted = (AFTER, CROSS_ENTROPY, TEACHER)
  if all(title in scores for title in wanted):
    for metric, title, by_token in _GAPS:
      if all(metric in scores[title_] for title_ in wanted):
        values = [_per_example(scores[t], metric, by_token) for t in wanted]
        gap = intervals.gap_share(*(v for v, _ in values), values[0][1])
        notes.append(table.gap_note(title, gap))
  return table.Table(list(scores), rows, notes)


def _curve(folder, metric):
  """(steps, values) of a metric in a run's metrics.jsonl."""
  steps, values = [], []
  path = os.path.join(folder, 'metrics.jsonl')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      for line in f:
        record = json.loads(line)
        if metric in record:
          steps.append(record['step'])
          values.append(float(record[metric]))
  return steps, values


def _draw(workdir: str, names: Sequence[str]) -> None:
  """Training loss, and held-out NLL by set, of student and baseline."""
  import matplotlib  # Slow to import.

  matplotlib.use('Agg')
  from matplotlib import pyplot

  metrics = ['train/loss'] + [f'eval/{name}/nll' for name in names]
  figure, axes = pyplot.subplots(
    1, len(metrics), figsize=(5 * len(metrics), 3.4), squeeze=False
  )
  runs = [
    (workdir, 'student'),
    (os.path.join(workdir, outputs.BASELINE), CROSS_ENTROPY),
  ]
  teacher = _read(workdir, 'teacher')
  for axis, metric in zip(axes[0], metrics, strict=True):
    for folder, label in runs:
      steps, values = _curve(folder, metric)
      if steps:
        axis.plot(steps, values, marker='.', label=label)
    if teacher and metric in teacher['metrics']:
      level = teacher['metrics'][metric]
      axis.axhline(level, color='grey', linestyle='--', label=TEACHER)
    axis.set(xlabel='step', ylabel='nats a token', title=metric)
    axis.set_yscale('log')
    axis.legend()
  axes[0][0].set_title('training: each its own loss')
  figure.tight_layout()
  aside = os.path.join(workdir, f'.{CURVES}.tmp.png')
  figure.savefig(aside, dpi=120)
  pyplot.close(figure)
  os.replace(aside, os.path.join(workdir, CURVES))


def write(run: resolve.Run, workdir: str) -> str:
  """Writes report.md and its picture; returns the tables for a terminal.

  Args:
    run: the run that has ended.
    workdir: its folder.
  """
  found = columns(workdir, run.config.steps)
  if not found:
    return 'no held-out set, so no report'
  names = sorted(found[AFTER]['scores'])
  markdown, text = ['# Report'], []
  for name in names:
    count = len(found[AFTER]['scores'][name]['weight'])
    title = f'{name}: {count} examples'
    rendered = _table(found, name)
    markdown += [f'## {title}', table.markdown(rendered)]
    text += [title, table.text(rendered)]
  _draw(workdir, names)
  markdown.append(f'![held-out NLL by step]({CURVES})')
  run_info.write_text(os.path.join(workdir, FILE), '\n\n'.join(markdown) + '\n')
  return '\n'.join(text + [f'report: {os.path.join(workdir, FILE)}'])
