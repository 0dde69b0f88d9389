"""Sums up the runs of one experiment: results.json and result.png.

  python -m experiments.summary experiments/quickstart /tmp/kd-quickstart/*

reads finished workdirs that differ in their seed alone, and writes beside the
experiment's README the numbers, the resolved config and a picture.
"""

import json
import os
import sys

import matplotlib
import numpy as np

from kd.core import run_info
from kd.train import outputs
from kd.train import report
from kd.train import workdirs as workdirs_lib

MEASURES = {
  'nll': 'NLL, nats a token',
  'kl': 'KL to the teacher, nats a token',
  'agreement': 'top-1 agreement',
  'exact_match': 'exact match',
}
COLOURS = {report.AFTER: 'tab:blue', report.CROSS_ENTROPY: 'tab:orange'}


def read(workdirs):
  """By model, measure and set: the value of each run."""
  results = {}
  for workdir in workdirs:
    with open(
      os.path.join(workdir, workdirs_lib.CONFIG_FILE), encoding='utf-8'
    ) as f:
      steps = json.load(f)['steps']
    for title, evaluation in report.columns(workdir, steps).items():
      for name, value in evaluation.metrics.items():
        # eval/<set>/<measure>: a mixture's tasks have one more part.
        parts = name.split('/')
        if parts[-1] in MEASURES and len(parts) == 3:
          row = results.setdefault(name, {})
          row.setdefault(title, []).append(value)
  return results


def table(results):
  """A Markdown table: mean over runs, and each run's value."""
  titles = list(next(iter(results.values())))
  lines = [
    '| | ' + ' | '.join(titles) + ' |',
    '| --- |' + ' ---: |' * len(titles),
  ]
  for name, row in results.items():
    cells = []
    for title in titles:
      values = row.get(title, [])
      each = ', '.join(f'{v:.3f}' for v in values)
      several = f' ({each})' if len(values) > 1 else ''
      cells.append(f'{np.mean(values):.3f}{several}' if values else '-')
    measure = MEASURES[name.rpartition('/')[2]]
    lines.append(f'| {measure} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _curve(axis, folder, metric, colour, label):
  path = os.path.join(folder, 'metrics.jsonl')
  with open(path, encoding='utf-8') as f:
    lines = [json.loads(line) for line in f]
  points = [(x['step'], x[metric]) for x in lines if metric in x]
  axis.plot(
    *zip(*points, strict=True), color=colour, label=label, linewidth=1.2
  )


def _bars(axis, values_of, measure):
  titles = [t for t in values_of if t != report.BEFORE]
  for x, title in enumerate(titles):
    values = values_of[title]
    colour = COLOURS.get(title, 'grey')
    axis.bar(x, np.mean(values), color=colour, width=0.6)
    axis.plot([x] * len(values), values, 'k.', markersize=5)
  names = [t.replace(' after', '').replace(' al', '\nal') for t in titles]
  axis.set_xticks(range(len(titles)), names)
  axis.set_title(f'held out: {MEASURES[measure]}', fontsize=10)


def draw(results, workdirs, path):
  """Training curves of both students, and what they come to held out."""
  matplotlib.use('Agg')
  from matplotlib import pyplot

  named = {name.rpartition('/')[2]: row for name, row in results.items()}
  chosen = [m for m in ('exact_match', 'kl', 'nll') if m in named]
  figure, axes = pyplot.subplots(
    1, 1 + len(chosen), figsize=(3.6 * (1 + len(chosen)), 3.2)
  )
  for i, workdir in enumerate(workdirs):
    baseline = os.path.join(workdir, outputs.BASELINE)
    for folder, title in (
      (workdir, report.AFTER),
      (baseline, report.CROSS_ENTROPY),
    ):
      label = None if i else title.replace(' after', '')
      _curve(axes[0], folder, 'train/loss', COLOURS[title], label)
  axes[0].set(xlabel='step', yscale='log')
  axes[0].set_title('training: each its own loss, nats', fontsize=10)
  axes[0].legend()
  for axis, measure in zip(axes[1:], chosen, strict=True):
    _bars(axis, named[measure], measure)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


def _resolved(workdir):
  """The run's config; of files only the names, which hold anywhere."""
  with open(
    os.path.join(workdir, workdirs_lib.CONFIG_FILE), encoding='utf-8'
  ) as f:
    config = json.load(f)
  for model in ('student', 'teacher'):
    kind, colon, where = config[model]['init'].partition(':')
    config[model]['init'] = kind + colon + os.path.basename(where)
  return config


def main(folder, *workdirs):
  results = read(workdirs)
  run_info.write_json(os.path.join(folder, 'results.json'), results)
  draw(results, workdirs, os.path.join(folder, 'result.png'))
  run_info.write_json(
    os.path.join(folder, 'config.json'), _resolved(workdirs[0])
  )
  print(table(results))


if __name__ == '__main__':
  main(*sys.argv[1:])
