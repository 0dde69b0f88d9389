"""Files are written completely or not at all."""

import resource

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


def test_a_write_beyond_the_space_keeps_the_previous_file_alone(tmp_path):
  path = tmp_path / 'a.json'
  atomic_files.write_json(str(path), {'a': 1})
  before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  try:
    with pytest.raises(OSError, match='too large'):
      atomic_files.write_json(str(path), {'a': 'x' * 100_000})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']
