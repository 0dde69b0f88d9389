"""Draws held-out scenes with the teacher's, student's and baseline's answers.

  python -m experiments.scenes.draw_answers experiments/scenes/answers.png \
      /tmp/kd-experiments/scenes/0

The scenes are the first ones of the held-out set, not chosen by their answers.
"""

import base64
import io
import sys
from typing import Any

import matplotlib
import numpy as np

from kd.core import atomic_files
from kd.run import workdirs as workdirs_lib
from kd.train import early_stop
from kd.train import report

_SCENES = 12
_COLUMNS = 3
_MODELS = {
  report.TEACHER: 'teacher',
  report.AFTER: 'student',
  report.CROSS_ENTROPY: 'labels alone',
}
_COLORS = {'right': 'tab:green', 'wrong': 'tab:red'}


def read(workdir: str) -> list[list[tuple[str, dict[str, Any]]]]:
  """Returns, for each scene, the models' names and records of their answers."""
  recorded = workdirs_lib.read_run(workdir)['ends']
  ends = {name: early_stop.End(**end) for name, end in recorded.items()}
  columns = report.columns(workdir, ends)
  answers = [
    [(name, record) for record in columns[title].answers[:_SCENES]]
    for title, name in _MODELS.items()
  ]
  return [list(scene) for scene in zip(*answers, strict=True)]


def draw(scenes: list[list[tuple[str, dict[str, Any]]]], path: str) -> None:
  """Draws each scene next to its question and answers."""
  matplotlib.use('Agg')
  from matplotlib import pyplot

  rows = -(-len(scenes) // _COLUMNS)
  figure, axes = pyplot.subplots(
    rows,
    2 * _COLUMNS,
    figsize=(6.2 * _COLUMNS, 1.5 * rows),
    width_ratios=(1, 3.3) * _COLUMNS,
  )
  # Texts are wider than their axes and must not affect the layout.
  figure.subplots_adjust(0.01, 0.02, 1, 0.98, wspace=0.04, hspace=0.15)
  for axis in axes.flat:
    axis.axis('off')
  for i, scene in enumerate(scenes):
    row, column = divmod(i, _COLUMNS)
    axes[row, 2 * column].imshow(_pixels(scene[0][1]))
    _write(axes[row, 2 * column + 1], scene)
  atomic_files.write_picture(path, figure, dpi=110)
  pyplot.close(figure)


def _pixels(record):
  from PIL import Image

  _, _, encoded = record['images'][0].partition(',')
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def _write(axis, scene):
  """Writes the question, the correct answer, and each model's."""
  first = scene[0][1]
  lines = [
    (first['prompt'].rpartition('[image]')[2], 'black', 'bold'),
    (f'correct: {first["reference"]}', 'black', 'normal'),
  ]
  for name, record in scene:
    color = _COLORS.get(record['verdict'], 'tab:gray')
    lines.append((f'{name}: {record["answer"]}', color, 'normal'))
  for i, (text, color, weight) in enumerate(lines):
    y = 0.95 - 0.21 * i
    axis.text(0, y, text, color=color, weight=weight, fontsize=8, va='top')


if __name__ == '__main__':
  draw(read(sys.argv[2]), sys.argv[1])
