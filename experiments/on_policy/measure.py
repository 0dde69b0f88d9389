"""Summarizes runs that differ in loss and rows: results.json and result.png.

  python -m experiments.on_policy.measure FOLDER RUNS STUDENT...

RUNS contains finished workdirs: start-0, on_policy-0 and so on, where the
number is the seed. Students are shown in the given order. The files are written
to FOLDER.
"""

import glob
import json
import os
import sys

import matplotlib
import numpy as np

from experiments import summary
from kd.core import atomic_files
from kd.run import outputs

_MEASURES = {
  'exact_match': 'exact match, held out',
  'kl': 'KL to the teacher on right answers, nats per token',
  'nll': 'NLL of right answers, nats per token',
}


def _metrics(file):
  """Returns the metrics of an evaluation."""
  with open(file, encoding='utf-8') as f:
    return json.load(f)['metrics']


def _read(workdir):
  """Returns the measures of a finished run."""
  with open(os.path.join(workdir, 'config.json'), encoding='utf-8') as f:
    config = json.load(f)
  folder = os.path.join(workdir, outputs.EVALUATIONS)
  metrics = _metrics(os.path.join(folder, f'step_{config["steps"]}.json'))
  later = os.path.join(folder, 'eval_last.json')
  if os.path.exists(later):
    # --mode=eval has added the exact match where training does not measure it.
    metrics = _metrics(later) | metrics
  lines = summary.training_metrics(workdir)
  keys = {name: f'eval/held_out/{name}' for name in _MEASURES}
  result = {name: metrics[key] for name, key in keys.items()}
  (loss,) = config['losses'].values()
  result['loss'] = loss['name']
  # Each line is a mean over log.every steps.
  every = config['log']['every']
  result['tokens'] = round(
    sum(line['train/target_weight'] * every for line in lines)
  )
  shares = [line.get('perf/rollout_share', 0.0) for line in lines]
  result['sampling_share'] = float(np.mean(shares))
  return result


def table(results):
  """Returns a Markdown table: mean over seeds, and each seed's value."""
  titles = ' | '.join(['student', 'loss', *_MEASURES.values(), 'tokens'])
  rows = [f'| {titles} |', '| --- | --- |' + ' ---: |' * (len(_MEASURES) + 1)]
  for kind, seeds in results.items():
    cells = []
    for name in _MEASURES:
      values = [seeds[seed][name] for seed in sorted(seeds)]
      each = ', '.join(f'{v:.3f}' for v in values)
      cells.append(f'{np.mean(values):.3f} ({each})')
    tokens = np.mean([each['tokens'] for each in seeds.values()])
    cells.append(f'{tokens:,.0f}')
    loss = next(iter(seeds.values()))['loss']
    rows.append(f'| {kind} | {loss} | {" | ".join(cells)} |')
  return '\n'.join(rows)


def draw(results, path):
  """Draws a bar for each student, a dot for each seed."""
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, len(_MEASURES), figsize=(14.4, 3.4))
  for axis, (measure, title) in zip(axes, _MEASURES.items(), strict=True):
    for x, (kind, seeds) in enumerate(results.items()):
      values = [seed[measure] for seed in seeds.values()]
      color = 'tab:gray' if kind == 'start' else f'C{x}'
      axis.bar(x, np.mean(values), width=0.6, color=color)
      axis.plot([x] * len(values), values, 'k.', markersize=5)
    names = [kind.replace('_', '\n', 1) for kind in results]
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_title(title, fontsize=10)
  figure.tight_layout()
  atomic_files.write_picture(path, figure, dpi=110)


def main(folder, runs, *kinds):
  """Writes results.json and result.png into `folder`; prints a table."""
  results = {}
  for kind in kinds:
    for report in sorted(glob.glob(f'{runs}/{kind}-[0-9]/report.md')):
      workdir = os.path.dirname(report)
      seed = workdir.rpartition('-')[2]
      results.setdefault(kind, {})[seed] = _read(workdir)
  atomic_files.write_json(os.path.join(folder, 'results.json'), results)
  draw(results, os.path.join(folder, 'result.png'))
  print(table(results))


if __name__ == '__main__':
  main(*sys.argv[1:])
