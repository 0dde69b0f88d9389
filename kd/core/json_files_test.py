import json

import pytest

from kd.core import errors
from kd.core import json_files


def _write(tmp_path, raw):
  path = tmp_path / 'some.json'
  path.write_bytes(raw)
  return str(path)


def test_an_object_is_read(tmp_path):
  value = {'a': [1, 2.5, None, True, '\u00e9 \U0001f600'], 'b': {'c': 10**30}}
  for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
    assert json_files.read(_write(tmp_path, text.encode())) == value
  assert json_files.read_in(tmp_path, 'some.json') == value
  assert json_files.read_in(tmp_path, 'other.json') == {}


@pytest.mark.parametrize(
  'raw, message',
  [
    (b'', 'is empty'),
    (b' \n', 'is empty'),
    ('{"a": 1}'.encode('utf-16'), 'is not UTF-8'),
    (b'{"a":\n "caf\xe9"}', r'some.json:2: is not UTF-8: byte 0xe9'),
    (b'\xef\xbb\xbf{"a": 1}', 'BOM'),
    (b'{"a":\n 1', r'some.json:2: is not JSON'),
    (b'{"a": NaN}', 'NaN is not a JSON number'),
    (b'{"a": [-Infinity]}', '-Infinity is not a JSON number'),
    (b'{"a": 1e999}', '1e999 is too large'),
    (b'{"a": ' + b'9' * 5000 + b'}', 'is not JSON'),
    (b'[' * 200_000, 'nested too deeply'),
    (b'[1, 2]', r'holds \[1, 2\], not an object'),
    (b'"' + b'x' * 100_000 + b'"', 'not an object'),
    (b'{"a": "\\ud83d"}', 'half of a surrogate pair'),
  ],
)
def test_files_without_an_object_are_refused_by_name(tmp_path, raw, message):
  path = _write(tmp_path, raw)
  with pytest.raises(errors.ConfigError, match=message) as caught:
    json_files.read(path)
  assert str(caught.value).startswith(path)
  assert len(str(caught.value)) < len(path) + 300
  with pytest.raises(errors.ConfigError) as caught:
    json_files.read(path, 'teacher.init')
  assert str(caught.value).startswith(f'teacher.init: {path}')


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
  with pytest.raises(errors.ConfigError, match='no such file'):
    json_files.read(str(tmp_path / 'none.json'))
  with pytest.raises(errors.ConfigError, match='is a folder'):
    json_files.read(str(tmp_path))


@pytest.mark.parametrize(
  'line, message',
  [
    (b'{"a": "caf\xe9"}', 'f:3: is not UTF-8: byte 0xe9'),
    ('{"a": 1}'.encode('utf-16'), 'f:3: is not UTF-8'),
    (b'{"a": 1', 'f:3: is not JSON'),
    (b'\xef\xbb\xbf{"a": 1}', 'f:3: is not JSON: .*BOM'),
    (b'', 'f:3: is not JSON'),
    (b'{"a": NaN}', 'f:3: is not JSON: NaN is not a JSON number'),
    (b'[-Infinity]', 'f:3: is not JSON'),
    (b'[1e999]', 'f:3: is not JSON: 1e999 is too large'),
    (b'9' * 5000, 'f:3: is not JSON'),
    (b'[' * 10**6, 'f:3: is nested too deeply'),
    (b'{"a": ["\\ud83d"]}', r'f:3: has half of a surrogate pair, U\+D83D'),
    (b'{"\\uDE00": 1}', r'f:3: has half of a surrogate pair, U\+DE00'),
  ],
)
def test_wrong_lines_are_named(line, message):
  with pytest.raises(errors.ConfigError, match=message) as e:
    json_files.parse(line, 'f:3', 'JSON')
  assert e.value.exit_code == 2


def test_valid_lines_are_read():
  line = b'{"a": "caf\xc3\xa9 \\ud83d\\ude00", "b": [1.5, null]}\r\n'
  assert json_files.parse(line, 'f:1', '') == {
    'a': 'caf\u00e9 \U0001f600',
    'b': [1.5, None],
  }
