"""Plots the memory of planned runs against the memory of a chip."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.core import atomic_files
from kd.planning import programs
from kd.planning import tables
from kd.planning.cost import estimates
from kd.planning.hlo import buffers

_GIB = 2**30
_COLUMNS = 3  # panels side by side
_COLORS = {
  'parameters': '#1f4e8c',
  'optimizer': '#5b9bd5',
  'gradients': '#b4d2ec',
  'activations': '#2e8b57',
  'kv_cache': '#a8d5a2',
  'teacher': '#e08a1e',
  'collectives': '#c9a0dc',
  'temporaries': '#9a9a9a',
}


def draw(rows: Sequence[Mapping[str, Any]], path: str) -> None:
  """Plots the plans of a workdir to a PNG file; see `figure`.

  Args:
    rows: rows of plan.json.
    path: path of the PNG file.
  """
  atomic_files.write_picture(path, figure(rows), dpi=150)


def figure(rows: Sequence[Mapping[str, Any]]) -> Any:
  """Returns a figure with a panel for each combination of models and slice.

  A panel has a bar for each length, with the program that needs the most
  memory. For a single length it has a bar for each program. A line marks the
  HBM of a chip. Estimates by formula are hatched.

  Args:
    rows: rows of plan.json.
  """
  # Matplotlib takes a second to import.
  import matplotlib.figure

  panels = sorted(_panels(rows).items())
  columns = min(len(panels), _COLUMNS)
  lines = -(-len(panels) // columns)
  result = matplotlib.figure.Figure(
    figsize=(max(3.6 * columns, 5.0), 3.3 * lines + 0.9), layout='constrained'
  )
  grid = result.subplots(lines, columns, squeeze=False)
  for axes in grid.flat[len(panels) :]:
    axes.set_axis_off()
  for axes, (title, bars) in zip(grid.flat, panels, strict=False):
    _panel(axes, title, _bars(bars))
  for axes in grid[:, 0]:
    axes.set_ylabel('GiB per chip')
  handles, used = {}, set()
  for axes in grid.flat:
    artists, labels = axes.get_legend_handles_labels()
    handles |= dict(zip(labels, artists, strict=True))
    used |= {
      label
      for label, bars in zip(labels, artists, strict=True)
      if any(bar.get_height() for bar in bars)
    }
  titles = [tables.TITLES[k] for k in reversed(buffers.KINDS)]
  shown = [title for title in titles if title in used]
  result.legend(
    [handles[label] for label in shown],
    shown,
    loc='outside lower center',
    ncols=4 if columns > 1 else 3,
    fontsize=8,
    frameon=False,
  )
  return result


def _panels(rows):
  """Groups the rows by the title of their panel."""
  panels = {}
  for row in rows:
    title = f'{row["teacher"]} to {row["student"]}, {row["topology"]}'
    panels.setdefault(title, []).append(row)
  return panels


def _bars(rows):
  """Returns the bars of a panel: its rows, or the programs of its only row."""
  rows = sorted(rows, key=lambda row: row['length'])
  if len(rows) > 1:
    return [row | {'label': _tick(row, rows)} for row in rows]
  (row,) = rows
  # Order: the teachers' passes, the update, decoding. plan.json sorts by name.
  last = (programs.STEP, programs.DECODE)
  order = lambda name: (name in last and 1 + last.index(name), name)
  return [
    row | {'label': name, 'bytes': row['programs'][name]['bytes']}
    for name in sorted(row['programs'], key=order)
  ]


def _panel(axes, title, bars):
  bottoms = [0.0] * len(bars)
  for kind in buffers.KINDS:
    sizes = [bar['bytes'][kind] / _GIB for bar in bars]
    drawn = axes.bar(
      range(len(bars)),
      sizes,
      0.62,
      bottom=bottoms,
      color=_COLORS[kind],
      edgecolor='white',
      linewidth=0.4,
      label=tables.TITLES[kind],
    )
    for patch, bar in zip(drawn, bars, strict=True):
      if bar['source'] == estimates.FORMULA:
        patch.set_hatch('////')
    bottoms = [b + s for b, s in zip(bottoms, sizes, strict=True)]
  limit = bars[0]['hbm_bytes'] / _GIB
  axes.axhline(limit, color='black', linewidth=1.2, linestyle='--')
  top = max([limit, *bottoms])
  for index, total in enumerate(bottoms):
    # Moved up to the HBM line if the number would overlap it.
    above = abs(total + 0.04 * top - limit) > 0.06 * top
    height = total if above or total > limit else limit
    axes.annotate(
      f'{total:.1f}',
      (index, height),
      xytext=(0, 2),
      textcoords='offset points',
      ha='center',
      va='bottom',
      fontsize=8,
    )
  axes.annotate(
    f'HBM {limit:.2f}',
    (-0.68, limit),
    xytext=(0, 2),
    textcoords='offset points',
    ha='left',
    va='bottom',
    fontsize=7,
  )
  axes.set_title(title, fontsize=9)
  axes.set_xlim(-0.7, max(len(bars) - 0.3, 0.7))
  axes.set_ylim(0, 1.13 * top)
  axes.set_xticks(range(len(bars)), [bar['label'] for bar in bars])
  axes.tick_params(labelsize=8)
  lengths = {bar['length'] for bar in bars}
  single = f'programs, {bars[0]["length"]:,} tokens per row'
  axes.set_xlabel('tokens per row' if len(lengths) > 1 else single, fontsize=8)
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)


def _tick(bar, bars):
  """Returns a bar's label: the length, and settings if others share it."""
  label = f'{bar["length"]:,}'
  same = [other for other in bars if other['length'] == bar['length']]
  if len(same) > 1:
    mesh = 'x'.join(str(size) for size in bar['mesh'].values())
    label += (
      f'\n{bar["batch_size"]} rows/{bar["micro_batches"]}'
      f'\n{bar["remat"]}\n{mesh}'
    )
  return label
