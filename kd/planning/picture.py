"""Memory against the length of rows."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

_GIB = 2**30


def draw(rows: Sequence[Mapping[str, Any]], path: str) -> None:
  """A line for each pair of models and slice, with what its chips have.

  Args:
    rows: of plan.json.
    path: the PNG file.
  """
  # Matplotlib takes a second to import.
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(7, 4.5))
  axes = figure.add_subplot()
  limits = {}
  for name, points in sorted(_lines(rows).items()):
    points.sort()
    lengths, sizes, papers = zip(*points, strict=True)
    (line,) = axes.plot(lengths, sizes, marker='o', label=name)
    axes.plot(lengths, papers, ':', color=line.get_color())
  for row in rows:
    limits[row['topology'].partition(':')[0]] = row['hbm_bytes'] / _GIB
  for generation, limit in limits.items():
    axes.axhline(limit, color='0.6', linewidth=0.8)
    axes.annotate(
      generation,
      (1, limit),
      xycoords=('axes fraction', 'data'),
      fontsize=8,
      va='bottom',
      ha='right',
    )
  axes.set_xscale('log', base=2)
  axes.set_yscale('log', base=2)
  axes.xaxis.set_major_formatter('{x:,.0f}')
  axes.yaxis.set_major_formatter('{x:g}')
  axes.set_xlabel('tokens a row')
  axes.set_ylabel('GiB a chip (dotted: on paper)')
  axes.legend(fontsize=7)
  figure.tight_layout()
  aside = f'{path}.tmp-{os.getpid()}.png'
  figure.savefig(aside, dpi=150)
  os.replace(aside, path)


def _lines(rows):
  found = {}
  for row in rows:
    name = (
      f'{row["teacher"]} to {row["student"]}, {row["topology"]}, '
      f'{row["batch_size"]} rows, {row["remat"]}'
    )
    found.setdefault(name, []).append(
      (
        row['length'],
        row['peak_bytes'] / _GIB,
        row['paper']['peak_bytes'] / _GIB,
      )
    )
  return found
