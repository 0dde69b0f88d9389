"""Summarizes the runs of one experiment: results.json and result.png.

  python -m experiments.summary experiments/quickstart /tmp/kd-quickstart/*

Reads finished workdirs that differ only in their seed. Writes the numbers, the
resolved config and a picture to the experiment's folder and prints a table.
"""

from collections.abc import Mapping, Sequence
import json
import os
import sys

import matplotlib
import numpy as np

from kd.core import atomic_files
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results as results_lib
from kd.metrics import metric
from kd.run import outputs
from kd.run import workdirs as workdirs_lib
from kd.train import early_stop
from kd.train import report

_LIKELIHOODS = (measures.AGREEMENT, measures.KL, measures.NLL)
MEASURES = {
  m.metric: m
  for m in (
    measures.Measure(
      results_lib.EXACT_MATCH, metric.Description('exact match'), False
    ),
    *(m for m in measures.LIKELIHOODS if m.metric in _LIKELIHOODS),
  )
}
_COLORS = {report.AFTER: 'tab:blue', report.CROSS_ENTROPY: 'tab:orange'}

# Models with more than this many times the largest trained value are not drawn.
_LARGEST_RATIO = 3

# {'seeds': values, 'interval': [low, high]} by 'eval/<set>/<metric>' and model.
Results = dict[str, dict[str, dict[str, list[float]]]]


def read(workdirs: Sequence[str]) -> Results:
  """Returns the runs' values and their interval, by metric and model."""
  by_title: dict[str, list[results_lib.Result]] = {}
  for workdir in workdirs:
    recorded = workdirs_lib.read_run(workdir)['ends']
    ends = {name: early_stop.End(**end) for name, end in recorded.items()}
    for title, result in report.columns(workdir, ends).items():
      by_title.setdefault(title, []).append(result)
  results: Results = {}
  for title, runs in by_title.items():
    for set_name in runs[0].scores:
      for measure in MEASURES.values():
        name = f'eval/{set_name}/{measure.metric}'
        if name in runs[0].metrics:
          interval = _interval(runs, set_name, measure)
          results.setdefault(name, {})[title] = {
            'seeds': [run.metrics[name] for run in runs],
            'interval': [interval.low, interval.high],
          }
  return results


def _interval(
  runs: Sequence[results_lib.Result], set_name: str, measure: measures.Measure
) -> intervals.Interval:
  """Returns the bootstrap interval, over examples, of the mean over runs."""
  values, weights = zip(
    *(measures.per_example(run, set_name, measure) for run in runs), strict=True
  )
  if any(w != weights[0] for w in weights):
    raise ValueError(f'{set_name}: the runs have different held-out examples')
  return intervals.mean(np.mean(values, axis=0), weights[0])


def training_metrics(folder: str) -> list[dict[str, float]]:
  """Returns the training metrics of a workdir or its baseline, by step."""
  with open(os.path.join(folder, 'metrics.jsonl'), encoding='utf-8') as f:
    return [line for line in map(json.loads, f) if 'train/loss' in line]


def table(results: Results) -> str:
  """Returns a Markdown table: means over runs, intervals, each run's value."""
  titles = list(next(iter(results.values())))
  several = len({_set_name(name) for name in results}) > 1
  lines = [
    '| | ' + ' | '.join(titles) + ' |',
    '| --- |' + ' ---: |' * len(titles),
  ]
  for name, row in results.items():
    cells = [_cell(row[title]) if title in row else '-' for title in titles]
    measure = MEASURES[name.rpartition('/')[2]]
    of_set = f'{_set_name(name)}: ' if several else ''
    lines.append(f'| {of_set}{measure.title} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _cell(value: Mapping[str, Sequence[float]]) -> str:
  low, high = value['interval']
  text = f'{np.mean(value["seeds"]):.3f} [{low:.3f}, {high:.3f}]'
  if len(set(value['seeds'])) > 1:
    text += f' ({", ".join(f"{v:.3f}" for v in value["seeds"])})'
  return text


def draw(results: Results, workdirs: Sequence[str], path: str) -> None:
  """Draws the training losses of both students and each set's metrics."""
  matplotlib.use('Agg')
  from matplotlib import pyplot

  metrics = {name.rpartition('/')[2] for name in results}
  # Exact match is more informative than agreement.
  hidden = {measures.AGREEMENT} if results_lib.EXACT_MATCH in metrics else set()
  chosen = [m for m in MEASURES if m in metrics and m not in hidden]
  sets = list(dict.fromkeys(_set_name(name) for name in results))
  figure, axes = pyplot.subplots(
    *(len(sets), 1 + len(chosen)),
    figsize=(3.5 * (1 + len(chosen)), 3.2 * len(sets)),
    layout='constrained',
    squeeze=False,
  )
  _losses(axes[0, 0], workdirs)
  for axis in axes[1:, 0]:
    axis.axis('off')
  for row, set_name in zip(axes, sets, strict=True):
    title = 'held out' if len(sets) == 1 else set_name
    for axis, metric_name in zip(row[1:], chosen, strict=True):
      name = f'eval/{set_name}/{metric_name}'
      if name not in results:
        axis.axis('off')
        continue
      _bars(axis, results[name])
      axis.set_title(f'{title}: {MEASURES[metric_name].title}', fontsize=10)
  atomic_files.write_picture(path, figure, dpi=110)
  pyplot.close(figure)


def _set_name(name):
  return name.split('/')[1]


def _losses(axis, workdirs):
  from matplotlib import ticker

  for workdir in workdirs:
    folders = {
      report.AFTER: workdir,
      report.CROSS_ENTROPY: os.path.join(workdir, outputs.BASELINE),
    }
    for title, folder in folders.items():
      lines = training_metrics(folder)
      axis.plot(
        *([x['step'] for x in lines], [x['train/loss'] for x in lines]),
        color=_COLORS[title],
        label=_short(title) if workdir == workdirs[0] else None,
        linewidth=1.2,
      )
  axis.set(xlabel='step', yscale='log')
  axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.yaxis.set_major_formatter('{x:g}')
  axis.yaxis.set_minor_formatter(ticker.NullFormatter())
  axis.xaxis.set_major_locator(
    ticker.MaxNLocator(5, integer=True, steps=(1, 2, 5, 10))
  )
  axis.set_title('training: each its own loss, nats', fontsize=10)
  axis.legend(fontsize=9)


def _bars(axis, row):
  """Draws bars of the models, with their intervals and a dot for each run."""
  largest = max(max(x['seeds']) for t, x in row.items() if t != report.BEFORE)
  # The bar of an untrained student would dwarf the others.
  titles = [
    t for t, x in row.items() if max(x['seeds']) <= _LARGEST_RATIO * largest
  ]
  for x, title in enumerate(titles):
    seeds, (low, high) = row[title]['seeds'], row[title]['interval']
    mean = np.mean(seeds)
    # A percentile interval may leave out the mean itself.
    errors = [[max(mean - low, 0)], [max(high - mean, 0)]]
    color = _COLORS.get(title, 'tab:gray')
    axis.bar(x, mean, color=color, width=0.6, alpha=0.8)
    axis.errorbar(x, mean, yerr=errors, color='black', capsize=5, linewidth=1)
    if len(set(seeds)) > 1:
      at = x + np.linspace(-0.15, 0.15, len(seeds))
      axis.plot(at, seeds, 'o', color='white', mec='black', markersize=4)
  axis.set_xticks(range(len(titles)), [_short(t, '\n') for t in titles])
  axis.set_ylim(bottom=0)


def _short(title, separator=' '):
  return title.replace(' after', '').replace(' alone', f'{separator}alone')


def _config(workdir):
  file = os.path.join(workdir, workdirs_lib.CONFIG_FILE)
  with open(file, encoding='utf-8') as f:
    return json.load(f)


def _shared_config(workdir):
  """Returns the run's config with base names in place of local paths."""
  config = _config(workdir)
  for model in ('student', 'teacher'):
    kind, colon, where = config[model]['init'].partition(':')
    config[model]['init'] = kind + colon + os.path.basename(where)
  return config


def main(folder: str, *workdirs: str) -> None:
  """Writes the summary of the workdirs to an experiment's folder."""
  results = read(workdirs)
  atomic_files.write_json(os.path.join(folder, 'results.json'), results)
  draw(results, workdirs, os.path.join(folder, 'result.png'))
  config = _shared_config(workdirs[0])
  atomic_files.write_json(os.path.join(folder, 'config.json'), config)
  print(table(results))


if __name__ == '__main__':
  main(*sys.argv[1:])
