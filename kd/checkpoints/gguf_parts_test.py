"""Tests split GGUF models from the gguf package and llama-gguf-split."""

import os
import shutil

import gguf
import numpy as np
import pytest

from kd.checkpoints import gguf_parts
from kd.core import errors

_NAMES = [f'tensor_{i}' for i in range(5)]


def _array(name):
  return np.full((2, 32), _NAMES.index(name), np.float32)


def _write(path, tensors, fields=(), **options):
  writer = gguf.GGUFWriter(path, 'gemma3', **options)
  for key, value in fields:
    writer.add_key_value(key, value, gguf.GGUFValueType.UINT16)
  for name in tensors:
    writer.add_tensor(name, _array(name))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def _part(folder, number, tensors, count=3, total=5, model='model', name=None):
  """Writes a part like llama-gguf-split; `number` starts at 0."""
  if name is None:
    name = f'{model}-{number + 1:05d}-of-{count:05d}.gguf'
  fields = [('split.no', number), ('split.count', count)]
  if not number:
    fields.append(('gemma3.block_count', 26))
  fields.append(('split.tensors.count', total))
  _write(folder / name, tensors, fields)
  return str(folder / name)


def _read(header):
  """Reads all tensors of a header, by name."""
  values = {}
  for name, entry in header.tensors.items():
    with open(entry.file, 'rb') as f:
      f.seek(entry.offset)
      raw = f.read(int(np.prod(entry.byte_shape)))
    values[name] = np.frombuffer(raw, np.float32).reshape(entry.shape)
  return values


@pytest.fixture
def parts(tmp_path):
  """Parts without tensors in the first (--no-tensor-first-split)."""
  return [
    _part(tmp_path, 0, []),
    _part(tmp_path, 1, _NAMES[:3]),
    _part(tmp_path, 2, _NAMES[3:]),
  ]


def test_any_part_loads_the_whole_model(parts):
  for path in parts:
    header = gguf_parts.read(path)
    assert header.metadata['gemma3.block_count'] == 26
    tensors = _read(header)
    assert list(tensors) == _NAMES
    for name, value in tensors.items():
      np.testing.assert_array_equal(value, _array(name))


def test_parts_written_by_the_gguf_package_equal_its_whole_file(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  field = [('gemma3.block_count', 26)]
  _write('whole.gguf', _NAMES, field)
  _write('split.gguf', _NAMES, field, split_max_tensors=2)
  whole = gguf_parts.read('whole.gguf')
  split = gguf_parts.read('split-00002-of-00003.gguf')
  metadata = dict(split.metadata)
  assert [metadata.pop(f'split.{key}') for key in ('no', 'count')] == [0, 3]
  assert metadata.pop('split.tensors.count') == 5
  assert metadata == whole.metadata
  np.testing.assert_equal(_read(split), _read(whole))
  # The fields that `llama-gguf-split --merge` leaves.
  _write('merged.gguf', _NAMES, [*field, ('split.count', 0)])
  np.testing.assert_equal(_read(gguf_parts.read('merged.gguf')), _read(whole))


def test_missing_parts_are_named(parts):
  os.remove(parts[0])
  names = 'is part 3 of 3.*missing: model-00001-of-00003.gguf; legal: all parts'
  with pytest.raises(errors.ConfigError, match=names):
    gguf_parts.read(parts[2])
  os.remove(parts[1])
  names = 'missing: model-00001-of-00003.gguf, model-00002-of-00003.gguf;'
  with pytest.raises(errors.ConfigError, match=names):
    gguf_parts.read(parts[2])


@pytest.mark.parametrize('name', ['model.gguf', 'model-00002-of-00004.gguf'])
def test_a_renamed_part_is_refused(parts, tmp_path, name):
  renamed = tmp_path / name
  shutil.copy(parts[1], renamed)
  words = 'is part 2 of 3.*cannot be derived.*llama-gguf-split --merge'
  with pytest.raises(errors.ConfigError, match=words):
    gguf_parts.read(str(renamed))


_SECOND = 'model-00002-of-00003.gguf'


@pytest.mark.parametrize(
  'change, message',
  [
    # The same part twice.
    (dict(number=2, tensors=_NAMES[3:]), 'split.no is 2, expected 1'),
    (dict(number=1, tensors=_NAMES[:3], count=4), 'count is 4, expected 3'),
    (dict(number=1, tensors=_NAMES[:3], total=6), 'count is 6, expected 5'),
    (
      dict(number=1, tensors=_NAMES[:4]),
      "'tensor_3', as does .*00002-of-00003",
    ),
    (
      dict(number=1, tensors=_NAMES[:2]),
      'the 3 parts contain 4 tensors, .* is 5',
    ),
  ],
)
def test_parts_of_other_models_are_refused(parts, tmp_path, change, message):
  _part(tmp_path, **change, name=_SECOND)
  for path in (parts[0], parts[2]):
    with pytest.raises(errors.ConfigError, match=message):
      gguf_parts.read(path)


def test_a_whole_file_is_not_a_part(parts, tmp_path):
  _write(tmp_path / _SECOND, _NAMES[:3])
  with pytest.raises(errors.ConfigError, match=f'{_SECOND}: split.no is None'):
    gguf_parts.read(parts[0])
