"""Draws a benchmark: values with intervals, calibration, latency."""

from collections.abc import Callable
import os
import textwrap
from typing import Any

from kd.benchmarking import cost as cost_lib
from kd.benchmarking import record
from kd.core import atomic_files
from kd.evaluation import calibration
from kd.evaluation import intervals
from kd.evaluation import measures

COMPARISON, RELIABILITY = 'comparison.png', 'reliability.png'
COST = 'cost.png'
_COLORS = {
  record.MODEL: 'tab:blue',
  record.TEACHER: 'dimgrey',
  record.BASELINE: 'tab:orange',
}
_EARLIER = ('tab:green', 'tab:purple', 'tab:brown', 'tab:pink')
# Measures that are a function of another one.
_HIDDEN = (measures.PERPLEXITY,)
_PANELS = 5  # in a row


def draw(path: str, benchmark: record.Benchmark) -> list[str]:
  """Draws the pictures of a benchmark and returns their file names.

  Args:
    path: folder of the benchmark.
    benchmark: the benchmark.
  """
  import matplotlib  # Slow to import.

  matplotlib.use('Agg')
  colors = dict(_COLORS)
  others = [x.title for x in benchmark.entries if x.title not in colors]
  colors |= {
    title: _EARLIER[number % len(_EARLIER)]
    for number, title in enumerate(others)
  }
  drawn = []
  for name, function in (
    (COMPARISON, _comparison),
    (RELIABILITY, _reliability),
    (COST, _cost),
  ):
    figure = function(benchmark, colors)
    if figure is not None:
      atomic_files.write_picture(os.path.join(path, name), figure, dpi=110)
      drawn.append(name)
  return drawn


def _grid(rows: int, columns: int, width: float, height: float) -> Any:
  """Returns a figure and its axes [rows, columns]."""
  from matplotlib import figure as figure_lib

  figure = figure_lib.Figure(
    figsize=(width * columns, height * rows), layout='constrained'
  )
  return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(figure, colors, titles) -> None:
  from matplotlib import patches

  handles = [
    patches.Patch(color=colors[title], label=title) for title in titles
  ]
  figure.legend(
    handles=handles,
    loc='outside lower center',
    ncols=len(handles),
    frameon=False,
  )


def _comparison(benchmark, colors):
  """Draws each measure of each set: a point with its interval per model."""
  panels = [
    (part, measure)
    for part in benchmark.parts
    for measure in measures.of(part.entries[0].mean, part.name)
    if measure.metric not in _HIDDEN and not measure.about.diagnostic
  ]
  rows = -(-len(panels) // _PANELS)
  figure, axes = _grid(rows, _PANELS, 2.5, 2.5)
  for axis in axes.flat[len(panels) :]:
    axis.axis('off')
  for axis, (part, measure) in zip(axes.flat, panels, strict=False):
    _points(axis, part, measure, colors)
    if len(benchmark.parts) > 1:
      axis.set_ylabel(part.name, parse_math=False, fontsize=9)
  _legend(figure, colors, [x.title for x in benchmark.entries])
  return figure


def _points(axis, part, measure, colors):
  for x, entry in enumerate(part.entries):
    value = measures.value(entry.mean, part.name, measure, entry.runs)
    if value is None:
      continue
    if not isinstance(value, intervals.Interval):
      value = intervals.Interval(value, value, value)
    # A percentile interval may exclude the value itself.
    bounds = [
      [max(value.value - value.low, 0)],
      [max(value.high - value.value, 0)],
    ]
    color = colors[entry.title]
    axis.errorbar(x, value.value, yerr=bounds, fmt='o', color=color, capsize=4)
    name = f'eval/{part.name}/{measure.metric}'
    if len(entry.runs) > 1:
      seeds = [run.metrics[name] for run in entry.runs]
      axis.plot([x + 0.2] * len(seeds), seeds, '_', color=color)
  arrow = (
    '\N{UPWARDS ARROW}'
    if measure.about.higher_is_better
    else ('\N{DOWNWARDS ARROW}')
  )
  axis.set_title(_wrapped(f'{arrow} {measure.title}'), fontsize=9)
  axis.set_xlim(-0.6, len(part.entries) - 0.4)
  axis.set_xticks([])
  axis.ticklabel_format(axis='y', useOffset=False)
  axis.margins(y=0.15)
  low, high = axis.get_ylim()
  if high - low < 1e-4:  # Equal values: rounding errors must not fill the axis.
    axis.set_ylim(low - 0.05, high + 0.05)
  axis.grid(axis='y', alpha=0.3)


def _wrapped(title: str) -> str:
  return textwrap.fill(title, 22)


def _reliability(benchmark, colors):
  """Draws the share of right tokens by confidence for each set."""
  figure, axes = _grid(2, len(benchmark.parts), 3.8, 2.4)
  for (curve, counts), part in zip(axes.T, benchmark.parts, strict=True):
    curve.plot([0, 1], [0, 1], color='lightgrey', linewidth=1)
    for entry in part.entries:
      scores = entry.mean.scores[part.name]
      if not calibration.is_in(scores):
        continue
      bins = [x for x in calibration.bins(scores) if x is not None]
      error = calibration.error(scores).value
      color = colors[entry.title]
      curve.plot(
        [x.confidence for x in bins],
        [x.accuracy for x in bins],
        '.-',
        color=color,
        label=f'ECE {error:.3f}',
      )
      total = sum(x.tokens for x in bins)
      counts.plot(
        [x.confidence for x in bins],
        [x.tokens / total for x in bins],
        '.-',
        color=color,
      )
    curve.legend(fontsize=8, loc='upper left', frameon=False)
    curve.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel='share of right tokens')
    curve.set_title(part.name, parse_math=False, fontsize=10)
    counts.set(xlim=(0, 1.02), ylabel='share of tokens')
    counts.set_yscale('log')
    counts.set_xlabel("probability of the model's most likely token")
    for axis in (curve, counts):
      axis.grid(alpha=0.3)
  _legend(figure, colors, [x.title for x in benchmark.entries])
  return figure


def _cost(benchmark, colors):
  """Draws latency and throughput by batch size and prompt length."""
  costs = {x.title: x.cost for x in benchmark.entries if x.cost}
  sizes = cost_lib.by_size(costs)
  timed = [t for t in costs if any(t in timings for timings in sizes.values())]
  if not timed:
    return None
  panels: tuple[tuple[str, Callable[[Any], dict[str, float]]], ...] = (
    ('first token, ms: p50, p95, p99', lambda t: _ms(t.first_token_s)),
    ('per token, ms: p50, p95, p99', lambda t: _ms(t.per_token_s)),
    ('tokens/s', lambda t: {'p50': t.tokens_per_s}),
  )
  figure, axes = _grid(1, len(panels), 3.6, 3.2)
  for axis, (title, read) in zip(axes[0], panels, strict=True):
    for x, timings in enumerate(sizes.values()):
      for number, name in enumerate(timed):
        if name not in timings:
          continue
        place = x + 0.2 * (number - (len(timed) - 1) / 2)
        values = read(timings[name])
        axis.plot(place, values['p50'], 'o', color=colors[name])
        bars = list(values.values())
        if len(bars) > 1:
          axis.plot([place] * len(bars), bars, '_-', color=colors[name])
    labels = [f'{batch_size} x {length}' for batch_size, length in sizes]
    axis.set_xticks(range(len(labels)), labels, rotation=30, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel('batch x prompt tokens', fontsize=9)
    axis.grid(axis='y', alpha=0.3)
  _legend(figure, colors, timed)
  return figure


def _ms(seconds):
  return {key: 1e3 * value for key, value in seconds.items()}
