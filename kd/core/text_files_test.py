"""Wrong bytes are errors that name the line."""

import pytest

from kd.core import errors
from kd.core import text_files


def test_invalid_bytes_are_reported_with_their_line(tmp_path):
  path = tmp_path / 'x.csv'
  path.write_bytes('Rank,Puzzles\n1,4 4 6 8\n2,caf\u00e9\n'.encode('latin-1'))
  with pytest.raises(errors.ConfigError, match='x.csv:3: .*0xe9.*UTF-8'):
    text_files.read(str(path))
  path.write_bytes('1,caf\u00e9\r\n'.encode())
  assert text_files.read(str(path)) == '1,caf\u00e9\r\n'
