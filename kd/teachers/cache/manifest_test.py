"""Errors on edited or damaged manifests name the file and field."""

import json

import pytest

from kd.config import base
from kd.core import errors
from kd.teachers.cache import manifest

_STATISTICS = dict(nll=1.5, entropy=1, tail_mass=0.0, dropped_mass=0.0)
_STATISTICS |= dict(positions=9, entries=18, most_entries=2)


def _shard(number, first_row, rows):
  return {
    'file': f'targets-{number:05d}-of-00002.array_record',
    'first_row': first_row,
    'rows': rows,
    'bytes': 100,
    'sha256': 'ab' * 32,
    'statistics': dict(_STATISTICS),
  }


_REQUEST = {
  'method': base.cache_method('stratified').to_dict(),
  'vocab_size': 263,
  'teachers': [{'digest': 'ab', 'dtype': 'bfloat16', 'embed_dim': 8}],
  'mixture': 'x',
}


@pytest.fixture
def value(tmp_path):
  shards = [_shard(0, 0, 5), _shard(1, 5, 3)]
  manifest.publish(str(tmp_path), _REQUEST, shards, {'unembedding': 'cd' * 32})
  return json.loads((tmp_path / manifest.FILE).read_text())


def test_manifests_are_read_back_unchanged(value, tmp_path):
  assert manifest.read(str(tmp_path), 'cache.folder') == value


@pytest.mark.parametrize(
  'path, bad, message',
  [
    ('request.method.entries', 0, 'found 0; legal: a whole number, 1 to 32767'),
    ('request.method.entries', 2**70, 'found 1180591620717411303424'),
    ('request.method.draws', 'all', "found 'all' of type str"),
    ('request.method.logprobs', 'int4', "unknown value 'int4'"),
    ('request.method.name', 'top_q', "unknown cache method 'top_q'"),
    ('request.method', [], 'found []; legal: an object'),
    ('request.vocab_size', '263', "found '263'; legal: a whole number"),
    ('request.teachers', [], 'found none'),
    ('request.teachers.0', 'x', "found 'x'; legal: an object"),
    ('request.teachers.0.dtype', None, 'found None; legal: text'),
    ('request', 3, 'found 3; legal: an object'),
    ('shards', {}, 'found {}; legal: a list'),
    ('shards.1.file', '../x', "found '../x'; legal: targets-N-of-M"),
    ('shards.1.first_row', 6, 'found 6; legal: 5'),
    ('shards.0.rows', 0, 'found 0'),
    ('shards.0.bytes', -1, 'found -1'),
    ('shards.0.sha256', 'x', "found 'x'; legal: 64 hex digits"),
    ('shards.0.statistics.most_entries', 1.5, 'found 1.5 of type float'),
    ('shards.0.statistics', None, 'found None'),
    ('files.unembedding', 1, 'found 1; legal: text'),
    ('format', 1, 'found 1; legal: 2'),
    ('digest', 'ab', "found 'ab', but the other fields have "),
  ],
)
def test_a_wrong_field_is_named(path, bad, message, value, tmp_path):
  *parents, last = [int(k) if k.isdigit() else k for k in path.split('.')]
  part = value
  for key in parents:
    part = part[key]
  part[last] = bad
  file = tmp_path / manifest.FILE
  file.write_text(json.dumps(value))
  with pytest.raises(errors.ConfigError) as caught:
    manifest.read(str(tmp_path), 'cache.folder')
  text = str(caught.value)
  assert text.startswith(f'cache.folder: {str(file)!r}: {path}: {message}'), (
    text
  )
  if isinstance(part, dict) and not path.startswith('files.'):
    del part[last]
    file.write_text(json.dumps(value))
    with pytest.raises(errors.ConfigError) as caught:
      manifest.read(str(tmp_path), 'cache.folder')
    assert f'{str(file)!r}: {path}: ' in str(caught.value)


def test_a_change_of_any_field_is_noticed(value, tmp_path):
  value['request']['mixture'] = 'y'
  (tmp_path / manifest.FILE).write_text(json.dumps(value))
  with pytest.raises(errors.ConfigError, match='digest: found .* was edited'):
    manifest.read(str(tmp_path), 'cache.folder')


def test_files_without_json_are_refused_by_name(value, tmp_path):
  (tmp_path / manifest.FILE).write_bytes(b'{"format": Infinity}')
  with pytest.raises(errors.ConfigError, match='manifest.json.*Infinity'):
    manifest.read(str(tmp_path), 'cache.folder')
