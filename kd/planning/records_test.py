"""Tests plan.json: which rows are replaced, and invalid files."""

import json

import matplotlib.image
import pytest

from kd.configs import gemma3_tpu
from kd.core import errors
from kd.planning import plot
from kd.planning import records
from kd.planning import suggestions
from kd.planning import tables
from kd.planning.cost import chips
from kd.planning.cost import estimates


def _row(source=estimates.FORMULA, date='', **changes):
  config = gemma3_tpu.get_config()
  config.update_from_flattened_dict(
    {
      'teacher.variant': 'tiny',
      'student.variant': 'nano',
      'data.length': 256,
      'data.batch_size': 8,
      'evaluation.batch_size': 8,
    }
    | changes
  )
  estimate = suggestions.estimate(config, chips.parse('v5e:2x4'))
  row = tables.record(estimate, estimate, [])
  return row | {'source': source, 'date': date}


def test_compiled_plans_are_kept_only_for_the_same_config(tmp_path):
  folder = str(tmp_path)
  compiled = _row(estimates.COMPILER, '2026-01-02')
  assert records.add(folder, compiled) == ''
  assert records.add(folder, _row()) == '2026-01-02'
  assert records.read(folder) == [compiled]
  # The same row of the table with another price or chunk: planned again.
  for changes in ({'plan.price': 2.0}, {'objective.chunk_tokens': 64}):
    records.write(folder, [compiled])
    assert records.add(folder, _row(**changes)) == ''
    (row,) = records.read(folder)
    assert row['source'] == estimates.FORMULA
  records.add(folder, _row(**{'data.length': 512}))
  assert [row['length'] for row in records.read(folder)] == [256, 512]


@pytest.mark.parametrize('text', ['[]', '{"plans": [{}]}', '{', '', '\x00'])
def test_files_without_a_plan_are_refused_by_name(tmp_path, text):
  (tmp_path / records.RESULTS).write_text(text)
  with pytest.raises(errors.ConfigError, match='plan.json'):
    records.read(str(tmp_path))


def _texts(axes):
  return [label.get_text() for label in axes.get_xticklabels()]


def test_a_picture_of_one_length_has_a_bar_for_each_program():
  row = json.loads(json.dumps(_row(), sort_keys=True))
  drawn = plot.figure([row])
  (axes,), (legend,) = drawn.axes, drawn.legends
  assert _texts(axes) == ['teacher', 'step', 'decode']
  tops = [0.0, 0.0, 0.0]
  for bars in axes.containers:
    for place, bar in enumerate(bars):
      assert bar.get_y() == pytest.approx(tops[place])
      tops[place] += bar.get_height()
  sizes = [sum(row['programs'][x]['bytes'].values()) for x in _texts(axes)]
  assert tops == pytest.approx([size / 2**30 for size in sizes])
  (line,) = axes.lines
  assert set(line.get_ydata()) == {15.75}
  drawn.canvas.draw()
  # The legend is within the picture.
  box = legend.get_window_extent()
  assert 0 <= box.x0 < box.x1 <= drawn.bbox.width
  after = plot.figure([row, _row(**{'data.length': 512})])
  assert _texts(after.axes[0]) == ['256', '512']


def test_the_picture_has_a_panel_for_each_slice(tmp_path):
  rows = [_row(**{'data.length': length}) for length in (256, 512)]
  records.write(str(tmp_path), rows)
  before = matplotlib.image.imread(tmp_path / records.PICTURE).shape
  records.write(str(tmp_path), rows + [rows[0] | {'topology': 'v5e:4x4'}])
  after = matplotlib.image.imread(tmp_path / records.PICTURE).shape
  assert after[0] == before[0] and after[1] > before[1] > 600
