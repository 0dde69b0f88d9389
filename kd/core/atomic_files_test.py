"""Files are written completely or not at all."""

from matplotlib import figure as figure_lib
import pytest

from kd.core import atomic_files


def test_a_failed_picture_keeps_the_previous_one(tmp_path):
  path = tmp_path / 'a.png'
  figure = figure_lib.Figure()
  atomic_files.write_picture(str(path), figure, dpi=20)
  before = path.read_bytes()
  assert before.startswith(b'\x89PNG') and before.endswith(b'IEND\xaeB`\x82')
  figure.text(0, 0, r'$\no_such_symbol$')
  with pytest.raises(ValueError, match='no_such_symbol'):
    atomic_files.write_picture(str(path), figure, dpi=20)
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['a.png']
