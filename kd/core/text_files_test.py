"""Wrong bytes, wrong JSON and half an emoji are errors that name the line."""

import pytest

from kd.core import errors
from kd.core import text_files


@pytest.mark.parametrize(
  'line, message',
  [
    (b'{"a": "caf\xe9"}', 'f:3: is not UTF-8 .*0xe9'),
    ('{"a": 1}'.encode('utf-16'), 'f:3: is not UTF-8'),
    (b'{"a": 1', 'f:3: is not JSON'),
    (b'\xef\xbb\xbf{"a": 1}', 'f:3: is not JSON .*BOM'),
    (b'', 'f:3: is not JSON'),
    (b'{"a": NaN}', 'f:3: is not JSON .NaN is not a JSON value'),
    (b'[-Infinity]', 'f:3: is not JSON'),
    (b'9' * 5000, 'f:3: is not JSON'),
    (b'[' * 10**6, 'f:3: nests too deeply'),
    (b'{"a": ["\\ud83d"]}', r'f:3: has half of a surrogate pair, U\+D83D'),
    (b'{"\\uDE00": 1}', r'f:3: has half of a surrogate pair, U\+DE00'),
  ],
)
def test_wrong_lines_are_named(line, message):
  with pytest.raises(errors.ConfigError, match=message) as e:
    text_files.parse_json(line, 'f:3', 'JSON')
  assert e.value.exit_code == 2


def test_right_lines_are_read():
  line = b'{"a": "caf\xc3\xa9 \\ud83d\\ude00", "b": [1.5, null]}\r\n'
  assert text_files.parse_json(line, 'f:1', '') == {
    'a': 'caf\u00e9 \U0001f600',
    'b': [1.5, None],
  }


def test_the_line_of_wrong_bytes(tmp_path):
  path = tmp_path / 'x.csv'
  path.write_bytes('Rank,Puzzles\n1,4 4 6 8\n2,caf\u00e9\n'.encode('latin-1'))
  with pytest.raises(errors.ConfigError, match='x.csv:3: .*0xe9.*UTF-8'):
    text_files.read(str(path))
  path.write_bytes('1,caf\u00e9\r\n'.encode())
  assert text_files.read(str(path)) == '1,caf\u00e9\r\n'
