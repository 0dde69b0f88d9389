"""Summarizes experiments/pruning_270m in results.json and result.png.

  python -m experiments.pruning_270m.measure RUNS

RUNS contains finished workdirs KIND-SEED: depth-0, width-0 and so on.
"""

import glob
import json
import os
import sys

import matplotlib
import numpy as np

from kd.core import atomic_files
from kd.models import config_json
from kd.pruning import sizes
from kd.run import model_sizes
from kd.run import outputs

KINDS = ('depth', 'width', 'both', 'random')
_MOMENTS = ('before', 'after')
_MEASURES = {
  'nll': 'NLL, nats per token',
  'kl': 'KL to the teacher, nats per token',
  'agreement': 'top-1 agreement',
}


def _json(*path):
  with open(os.path.join(*path), encoding='utf-8') as f:
    return json.load(f)


def _read(workdir):
  """Returns a finished run's metrics before and after training."""
  steps = _json(workdir, 'config.json')['steps']
  student = config_json.from_json(
    _json(workdir, model_sizes.RUN_FILE)['student'], workdir
  )
  result = {'parameters outside the embedding': sizes.non_embedding(student)}
  for moment, step in zip(_MOMENTS, (0, steps), strict=True):
    file = os.path.join(outputs.EVALUATIONS, f'step_{step}.json')
    metrics = _json(workdir, file)['metrics']
    for name in _MEASURES:
      result[f'{name} {moment}'] = metrics[f'eval/held_out/{name}']
  return result


def table(results: dict[str, list[dict[str, float]]]) -> str:
  """Returns a Markdown table: mean over seeds, and each seed's value."""
  columns = [f'{name} {moment}' for name in _MEASURES for moment in _MOMENTS]
  lines = [
    '| student | remaining parameters outside the embedding | '
    + ' | '.join(columns)
    + ' |',
    '| --- |' + ' ---: |' * (len(columns) + 1),
  ]
  for kind, seeds in results.items():
    cells = [kind, f'{seeds[0]["parameters outside the embedding"]:,}']
    for column in columns:
      values = [seed[column] for seed in seeds]
      each = ', '.join(f'{value:.3f}' for value in values)
      cells.append(f'{np.mean(values):.3f} ({each})')
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def draw(path: str, results: dict[str, list[dict[str, float]]]) -> None:
  """Draws each measure after training: dots for seeds, a bar for the mean."""
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(
    1, len(_MEASURES), figsize=(11, 3.2), layout='constrained'
  )
  for axis, (name, title) in zip(axes, _MEASURES.items(), strict=True):
    for place, seeds in enumerate(results.values()):
      values = [seed[f'{name} after'] for seed in seeds]
      axis.bar(place, np.mean(values), color='lightsteelblue')
      axis.plot([place] * len(values), values, 'k.')
    axis.set_xticks(range(len(results)), results)
    axis.set_title(title, fontsize=10)
  atomic_files.write_picture(path, figure, dpi=110)


def main(runs: str) -> None:
  """Writes results.json and result.png next to this file; prints a table."""
  results = {
    kind: [_read(run) for run in sorted(glob.glob(f'{runs}/{kind}-?'))]
    for kind in KINDS
  }
  folder = os.path.dirname(__file__)
  atomic_files.write_json(os.path.join(folder, 'results.json'), results)
  draw(os.path.join(folder, 'result.png'), results)
  print(table(results))


if __name__ == '__main__':
  main(sys.argv[1])
