"""The next process continues JSON lines that a killed process left."""

import json

import pytest

from kd.core import errors
from kd.core import json_lines


def _read(path):
  return [record for _, record in json_lines.resume(str(path), 'a line')]


def test_appended_lines_are_read_despite_a_torn_last_line(tmp_path):
  path = tmp_path / 'x.jsonl'
  records = [{'a': 1.5, 'text': 'line\u2028\u20ac\n'}, {'b': [1, 2]}, {}]
  with open(path, 'ab') as f:
    json_lines.append(f, records[:1])
    json_lines.append(f, records[1:])
  whole = path.read_bytes()
  lines = whole.decode().split('\n')
  assert [json.loads(line) for line in lines[:-1]] == records
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    assert _read(path) == records[: whole[:size].count(b'\n')]
    assert path.read_bytes() == whole[: whole[:size].rfind(b'\n') + 1]


def test_files_of_another_kind_are_not_truncated(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'{"a": 1}\n[2]\n{"torn')
  with pytest.raises(errors.ConfigError, match=r'x.jsonl:2: holds \[2\]'):
    _read(path)
  for where, _ in json_lines.resume(str(path), 'a line'):
    assert where.endswith(':1')
    break
  assert path.read_bytes().endswith(b'{"torn')
  assert _read(tmp_path / 'missing') == []


def test_nonfinite_numbers_are_not_written(tmp_path):
  with pytest.raises(ValueError), open(tmp_path / 'x', 'ab') as f:
    json_lines.append(f, [{'a': float('nan')}])
