import resource
import struct

import gguf
import numpy as np
import pytest

from kd.checkpoints import gguf_header
from kd.checkpoints import gguf_weights
from kd.core import errors
from kd.models.gemma3 import config as gemma3_config

_LISTS = ('tokenizer.ggml.tokens', 'tokenizer.ggml.scores')


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  """Lists of each sort before and after single values; odd alignment."""
  path = str(tmp_path_factory.mktemp('gguf') / 'model.gguf')
  writer = gguf.GGUFWriter(path, 'gemma3')
  writer.add_custom_alignment(256)
  writer.add_token_list(['a', 'é', '▁b'])
  writer.add_float32('gemma3.rope.freq_base', 1e6)
  writer.add_token_scores([0.0, -1.5, -2.0])
  writer.add_array('nested', [['x'], ['y', 'z']])
  writer.add_bool('tokenizer.ggml.add_bos_token', True)
  writer.add_int64('negative', -(2**40))
  random = np.random.default_rng(0)
  writer.add_tensor('odd' * 20, random.normal(size=(3, 5)).astype(np.float32))
  blocks = random.normal(size=(2, 64)).astype(np.float32)
  kind = gguf.GGMLQuantizationType.Q8_0
  writer.add_tensor('q8', gguf.quantize(blocks, kind), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def test_fields_and_offsets_equal_the_gguf_packages(file):
  found = gguf_header.read(file, _LISTS)
  reader = gguf.GGUFReader(file)
  fields = {
    name: field.contents()
    for name, field in reader.fields.items()
    if not name.startswith('GGUF.') and name != 'nested'
  }
  assert found.metadata == fields
  assert set(fields) - set(gguf_header.read(file).metadata) == set(_LISTS)
  assert (
    set(found.tensors)
    == {t.name for t in reader.tensors}
    == {
      'odd' * 20,
      'q8',
    }
  )
  for tensor in reader.tensors:
    entry = found.tensors[tensor.name]
    assert entry.offset == tensor.data_offset
    assert entry.kind == tensor.tensor_type
    assert entry.shape == tuple(map(int, reversed(tensor.shape)))


def test_truncated_files_are_refused(file, tmp_path):
  with open(file, 'rb') as f:
    whole = f.read()
  last = max(
    e.offset + np.prod(e.byte_shape)
    for e in gguf_header.read(file).tensors.values()
  )
  cut = str(tmp_path / 'cut.gguf')
  for size in range(last):
    with open(cut, 'wb') as f:
      f.write(whole[:size])
    with pytest.raises(errors.ConfigError, match='cut.gguf'):
      gguf_header.read(cut, _LISTS)


def test_a_vocabulary_without_tensors_ends_with_its_last_field(tmp_path):
  path = str(tmp_path / 'vocabulary.gguf')
  writer = gguf.GGUFWriter(path, 'gemma3')
  writer.add_string('last', 'text')
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  assert gguf_header.read(path).metadata['last'] == 'text'
  with open(path, 'rb') as f:
    whole = f.read().rstrip(b'\0')
  with open(path, 'wb') as f:
    f.write(whole[:-1])
  with pytest.raises(errors.ConfigError, match='4 bytes wanted, 3 left'):
    gguf_header.read(path)


_METADATA = {
  'general.architecture': 'gemma3',
  'gemma3.block_count': 62,
  'gemma3.embedding_length': 5376,
  'gemma3.feed_forward_length': 21504,
  'gemma3.attention.head_count': 32,
  'gemma3.attention.head_count_kv': 16,
  'gemma3.attention.key_length': 128,
  'gemma3.attention.sliding_window': 1024,
  'gemma3.attention.layer_norm_rms_epsilon': float(np.float32(1e-6)),
  'gemma3.context_length': 131072,
  'gemma3.rope.freq_base': 1e6,
}
_SCALED = {
  'gemma3.rope.scaling.type': 'linear',
  'gemma3.rope.scaling.factor': 8.0,
}


def _config(**changes):
  return _read(_METADATA | changes)


def _read(metadata):
  table = gguf_header.Entry(
    'm.gguf', (262144, 5376), gguf.GGMLQuantizationType.F32, 0
  )
  header = gguf_header.Header(metadata, {'token_embd.weight': table})
  return gguf_weights.read_config(header, 'm.gguf')


def test_metadata_equals_the_files_fields():
  config = _config()
  assert (config.global_rope_factor, config.local_rope_base) == (1.0, 1e4)
  assert (config.query_scale, config.norm_epsilon) == (168, 1e-6)
  kinds = gemma3_config.published_kinds(62)
  assert config.layer_kinds == kinds
  assert _config(**_SCALED).global_rope_factor == 8.0
  # Only 27B's scale is not its head width.
  assert _config(**{'gemma3.block_count': 26}).query_scale == 128
  bases = {'gemma3.rope.freq_base': 5e5, 'gemma3.rope.freq_base_swa': 2e4}
  config = _config(**bases)
  assert (config.global_rope_base, config.local_rope_base) == (5e5, 2e4)


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('general.architecture', 'gemma2', "found 'gemma2'; legal: 'gemma3'"),
    ('gemma3.block_count', 0, 'found 0; legal: a whole number from 1 to 1024'),
    ('gemma3.attn_logit_softcapping', 50.0, 'found 50.0; legal: none'),
    ('gemma3.final_logit_softcapping', 30.0, 'found 30.0; legal: none'),
    ('gemma3.rope.scaling.type', 'yarn', "found 'yarn'; legal: none, linear"),
    # Values of another type, or beyond any model.
    ('gemma3.block_count', '62', "found '62'"),
    ('gemma3.block_count', 2**31 - 1, 'found 2147483647'),
    ('gemma3.embedding_length', 2**63, 'found 9223372036854775808'),
    ('gemma3.context_length', [4096], 'found .4096.'),
    ('gemma3.rope.freq_base', float('nan'), 'found nan'),
    ('gemma3.rope.freq_base', float('inf'), 'found inf'),
    ('gemma3.rope.scaling.factor', True, 'found True'),
    ('gemma3.attention.head_count_kv', 3, 'found 3; legal: divisors'),
    ('gemma3.attention.sliding_window_pattern', -1, 'found -1'),
    ('gemma3.attention.sliding_window_pattern', 'x', "found 'x'"),
    (
      'gemma3.attention.sliding_window_pattern',
      [True] * 61,
      'found 61 entries',
    ),
    ('gemma3.attention.sliding_window_pattern', [[]] * 62, 'found 62 entries'),
  ],
)
def test_metadata_of_another_model_is_refused(key, value, message):
  with pytest.raises(errors.ConfigError, match=f'm.gguf: {key}: {message}'):
    _config(**{key: value})


def test_patterns_are_read_as_in_llama_cpp():
  def kinds(pattern, layers=6):
    config = _config(
      **{
        'gemma3.block_count': layers,
        'gemma3.attention.sliding_window_pattern': pattern,
      }
    )
    return ''.join(kind[0] for kind in config.layer_kinds)

  # A layer is local if its number modulo the period is not the last.
  assert kinds(3, 7) == 'llgllgl'
  assert kinds(1) == 'gggggg'
  assert kinds(0) == 'llllll'
  assert kinds([False, True, True, False, True, False]) == 'gllglg'


def test_a_rope_factor_without_a_type_is_linear():
  factor = {'gemma3.rope.scaling.factor': 8.0}
  assert _config(**factor).global_rope_factor == 8.0
  kind = 'gemma3.rope.scaling.type'
  assert _config(**factor, **{kind: 'none'}).global_rope_factor == 1.0
  assert _config(**{'gemma3.rope.scale_linear': 4.0}).global_rope_factor == 4.0
  with pytest.raises(errors.ConfigError, match='scaling.factor: missing'):
    _config(**{kind: 'linear'})


_BEGIN = b'GGUF' + struct.pack('<I', 3)
_HUGE = 2**62


def _field(key, kind, value):
  return struct.pack('<Q', len(key)) + key + struct.pack('<I', kind) + value


_DAMAGED = [
  struct.pack('<QQ', 0, _HUGE),  # Fields without end.
  struct.pack('<QQ', _HUGE, 0),  # Tensors without end.
  struct.pack('<QQQ', 0, 1, _HUGE),  # A key.
  struct.pack('<QQ', 0, 1) + _field(b'k', 8, struct.pack('<Q', _HUGE)),
  # Lists: read, skipped, of strings, of a string without end.
  struct.pack('<QQ', 0, 1) + _field(b'wanted', 9, struct.pack('<IQ', 0, 2**40)),
  struct.pack('<QQ', 0, 1) + _field(b'k', 9, struct.pack('<IQ', 12, _HUGE)),
  struct.pack('<QQ', 0, 1) + _field(b'k', 9, struct.pack('<IQ', 8, 2**64 - 1)),
  struct.pack('<QQ', 0, 1)
  + _field(b'k', 9, struct.pack('<IQQ', 8, 1, 2**64 - 1)),
  # Lists of lists, deeper than Python's stack.
  struct.pack('<QQ', 0, 1)
  + _field(b'k', 9, struct.pack('<IQ', 9, 1) * 100_000),
  struct.pack('<QQ', 0, 1) + _field(b'k\xff', 7, b'\1'),
  struct.pack('<QQ', 0, 1) + _field(b'k', 99, b'\1'),
  struct.pack('<QQ', 0, 1)
  + _field(b'general.alignment', 4, struct.pack('<I', 0)),
  struct.pack('<QQ', 0, 1) + _field(b'general.alignment', 7, b'\1\0')[:-1],
  # A tensor without dimensions, with too many, and of an odd width.
  struct.pack('<QQQ', 1, 0, 1) + b't' + struct.pack('<IIQ', 0, 0, 0),
  struct.pack('<QQQ', 1, 0, 1) + b't' + struct.pack('<I', 2**32 - 1),
  struct.pack('<QQQ', 1, 0, 1) + b't' + struct.pack('<IQIQ', 1, 33, 8, 0),
  struct.pack('<QQQ', 1, 0, 1) + b't' + struct.pack('<IQIQ', 1, 32, 99, 0),
  struct.pack('<QQQ', 1, 0, 1) + b't' + struct.pack('<IQIQ', 1, _HUGE, 0, 0),
]


@pytest.mark.parametrize('number', range(len(_DAMAGED)))
def test_damaged_headers_are_refused_without_large_allocations(
  number, tmp_path
):
  path = tmp_path / 'damaged.gguf'
  path.write_bytes(_BEGIN + _DAMAGED[number])
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(errors.ConfigError, match='damaged.gguf') as caught:
    gguf_header.read(str(path), ['wanted'])
  assert len(str(caught.value)) < len(str(path)) + 300
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert grown < 100_000  # kB


# Without a window every layer is global; see gguf_writer_test.
_WINDOW = 'gemma3.attention.sliding_window'


@pytest.mark.parametrize('key', [k for k in _METADATA if k != _WINDOW])
def test_missing_fields_are_refused(key):
  rest = {k: v for k, v in _METADATA.items() if k != key}
  with pytest.raises(errors.ConfigError, match=f'm.gguf: {key}: '):
    _read(rest)
