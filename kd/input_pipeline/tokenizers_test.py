"""Tokenizers: ids, offsets, round trips, digests and errors."""

import hashlib
import random
import struct

import gguf
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_models


@pytest.fixture(scope='module')
def bytes_tokenizer():
  return tokenizers.load('bytes')


def _texts():
  rng = random.Random(0)
  alphabet = 'ab 12\n\t\x00<>#\u00e9\u4f60\U0001f600\u0301'
  yield from ('', ' ', '  a  ', '<end_of_turn>', '<bos>')
  for _ in range(200):
    yield ''.join(rng.choices(alphabet, k=rng.randrange(30)))


def test_byte_ids_are_the_bytes_of_the_text(bytes_tokenizer):
  for text in _texts():
    ids = bytes_tokenizer.encode(text)
    assert bytes_tokenizer.decode(ids) == text
    if '<end_of_turn>' not in text:
      # Id 6 is the space; the byte b is 7 + b.
      expected = [6 if b == 0x20 else 7 + b for b in text.encode()]
      assert ids == expected
  assert bytes_tokenizer.encode('<start_of_turn><end_of_turn>') == [4, 5]
  for encode in bytes_tokenizer.encode, bytes_tokenizer.encode_with_offsets:
    with pytest.raises(errors.ConfigError, match='half of a surrogate pair'):
      encode('Thanks \ud83d')
  assert bytes_tokenizer.stop_ids == (1, 5)
  assert bytes_tokenizer.vocab_size == 263


def _with_offsets(tokenizer, text):
  ids, offsets = tokenizer.encode_with_offsets(text)
  return ids.tolist(), [tuple(pair) for pair in offsets.tolist()]


def test_offsets_cover_the_text(bytes_tokenizer):
  for text in _texts():
    ids, offsets = _with_offsets(bytes_tokenizer, text)
    assert ids == bytes_tokenizer.encode(text)
    if '<end_of_turn>' in text:
      assert offsets == [(0, len(text))]
      continue
    # One id per byte, each with the offsets of its whole character.
    assert offsets == [
      (i, i + 1) for i, char in enumerate(text) for _ in char.encode()
    ]


def test_decode_never_fails(bytes_tokenizer):
  decode = bytes_tokenizer.decode
  assert decode([0, 1, 2, 263, 262144, -1]) == ''
  assert decode([7 + 0x41, 10**9, 1, 7 + 0x42]) == 'AB'
  assert decode([7 + 0xFF]) == '\ufffd'


def _changed(tokenizer, change):
  model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model_proto)
  change(model)
  return sentencepiece_tokenizer.SentencePieceTokenizer(
    model.SerializeToString()
  )


def _joining(model):
  """Adds ids 263 to 266; a unigram model would not join 'ab'."""
  for text, score in (('a', -0.1), ('b', -0.1), ('ab', -1), ('  ', -2)):
    text = text.replace(' ', sentencepiece_models.SPACE)
    model.pieces.add(piece=text, score=score, type=1)


def _swap_specials(model):
  model.trainer_spec.bos_piece = '<eos>'
  model.trainer_spec.eos_piece = '<bos>'


def _charsmap(model):
  proto = sentencepiece_model_pb2.ModelProto.FromString(
    trained_models.train(normalization_rule_name='nfkc')
  )
  charsmap = proto.normalizer_spec.precompiled_charsmap
  model.normalizer_spec.precompiled_charsmap = charsmap


def _set(spec, **fields):
  def change(model):
    for name, value in fields.items():
      setattr(getattr(model, spec), name, value)

  return change


@pytest.mark.parametrize(
  'change',
  [
    _charsmap,
    _set('normalizer_spec', add_dummy_prefix=True),
    _set('normalizer_spec', remove_extra_whitespaces=True),
    _set('normalizer_spec', escape_whitespaces=False),
    _set('trainer_spec', treat_whitespace_as_suffix=True),
    _set('trainer_spec', model_type=1),
    _set('trainer_spec', unk_surface='?'),
    _swap_specials,
  ],
)
def test_changes_of_ids_or_text_change_the_digest(bytes_tokenizer, change):

  def effect(tokenizer):
    ids = [tokenizer.encode(t) for t in ('ab  b', '\uff21')]
    return ids, tokenizer.decode([3]), tokenizer.bos_id

  seen = []
  for prefix in (False, True):
    base = _set('normalizer_spec', add_dummy_prefix=prefix)
    one = _changed(_changed(bytes_tokenizer, _joining), base)
    other = _changed(one, change)
    if effect(one) != effect(other):
      seen.append(prefix)
      assert one.digest != other.digest
  assert seen


def test_digests_of_gemma_models_depend_on_their_pieces(bytes_tokenizer):
  digest = hashlib.sha256()
  for text, score, kind in bytes_tokenizer.pieces:
    digest.update(len(text.encode()).to_bytes(4, 'little'))
    digest.update(np.float32(score).tobytes() + np.uint32(kind).tobytes())
    digest.update(text.encode())
  assert bytes_tokenizer.digest == digest.hexdigest()


def _write_gguf(path, model):
  """Writes a GGUF with the tokenizer of a model, by hand."""

  def text(s):
    raw = s.encode()
    return struct.pack('<Q', len(raw)) + raw

  space = sentencepiece_models.SPACE
  kinds = [3 if p.type == 4 else p.type for p in model.pieces]
  words = [
    p.piece.replace(space, ' ')
    if set(p.piece) == {space} and i != 6
    else p.piece
    for i, p in enumerate(model.pieces)
  ]
  n = struct.pack('<Q', len(words))
  pre = 'tokenizer.ggml.'
  fields = [
    text('general.name') + struct.pack('<I', 8) + text('tiny'),
    text(pre + 'model') + struct.pack('<I', 8) + text('llama'),
    text(pre + 'tokens')
    + struct.pack('<II', 9, 8)
    + n
    + b''.join(text(w) for w in words),
    text(pre + 'scores')
    + struct.pack('<II', 9, 6)
    + n
    + struct.pack(f'<{len(words)}f', *[p.score for p in model.pieces]),
    text(pre + 'token_type')
    + struct.pack('<II', 9, 5)
    + n
    + struct.pack(f'<{len(words)}i', *kinds),
  ]
  for name, value in (('bos', 2), ('eos', 1), ('unknown', 3), ('padding', 0)):
    fields.append(text(f'{pre}{name}_token_id') + struct.pack('<II', 4, value))
  path.write_bytes(
    b'GGUF' + struct.pack('<IQQ', 3, 0, len(fields)) + b''.join(fields)
  )


def test_models_are_read_back_from_gguf(bytes_tokenizer, tmp_path):
  path = tmp_path / 'tiny.gguf'

  def add_run(model):
    model.pieces.add(piece=sentencepiece_models.SPACE * 2, score=0.0, type=4)

  tokenizer = _changed(bytes_tokenizer, add_run)
  model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model_proto)
  _write_gguf(path, model)
  read = tokenizers.load(f'gguf:{path}')
  assert tokenizer_differences.describe(read, tokenizer) == ''
  assert read.encode('a   b') == [7 + 97, 263, 6, 7 + 98]
  assert (read.pad_id, read.eos_id, read.bos_id, read.unk_id) == (0, 1, 2, 3)
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(errors.ConfigError, match='damaged or cut short'):
    tokenizers.load(f'gguf:{path}')


def _vocabulary_fields(tokenizer):
  words, scores, kinds = map(list, zip(*tokenizer.pieces, strict=True))
  fields = dict(tokens=words, scores=scores, token_type=kinds, model='llama')
  fields |= dict(bos_token_id=2, eos_token_id=1)
  return fields | dict(unknown_token_id=3, padding_token_id=0)


def _write_vocabulary(path, fields, tensors=0, **split):
  """Writes a GGUF with these tokenizer fields, by the gguf package."""
  writer = gguf.GGUFWriter(path, 'gemma3', **split)
  for name, value in fields.items():
    key = f'tokenizer.ggml.{name}'
    if isinstance(value, list):
      writer.add_array(key, value)
    elif isinstance(value, str):
      writer.add_string(key, value)
    else:
      writer.add_uint32(key, value)
  for i in range(tensors):
    writer.add_tensor(str(i), np.zeros(32, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def test_any_part_of_a_split_gguf_contains_the_tokenizer(
  bytes_tokenizer, tmp_path
):
  fields = _vocabulary_fields(bytes_tokenizer)
  _write_vocabulary(tmp_path / 'x.gguf', fields, 2, split_max_tensors=1)
  tokenizer = tokenizers.load(f'gguf:{tmp_path}/x-00002-of-00002.gguf')
  assert tokenizer.digest == bytes_tokenizer.digest


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda m: m['tokens'].__setitem__(9, 'a'), 'is not a SentencePiece model'),
    (lambda m: m['tokens'].pop(), 'scores: is damaged; legal: a list of float'),
    (lambda m: m['token_type'].pop(), 'token_type: is damaged'),
    (lambda m: m.update(tokens=[1] * 263), 'tokens: is damaged'),
    (lambda m: m.update(tokens='abc'), 'tokens: is damaged'),
    (lambda m: m['scores'].__setitem__(5, float('nan')), 'not all finite'),
    (lambda m: m.update(eos_token_id=263), 'eos token has id 263; legal: 0 to'),
    (lambda m: m.update(bos_token_id='2'), "bos token has id '2'"),
    (lambda m: m.update(model=['llama']), 'has a tokenizer of type .*llama'),
  ],
)
def test_a_damaged_vocabulary_of_a_gguf_is_refused(
  bytes_tokenizer, tmp_path, change, message
):
  fields = _vocabulary_fields(bytes_tokenizer)
  change(fields)
  _write_vocabulary(tmp_path / 'some.gguf', fields)
  with pytest.raises(errors.ConfigError, match=message):
    tokenizers.load(f'gguf:{tmp_path}/some.gguf')


def test_sources(bytes_tokenizer, tmp_path):
  (tmp_path / 'tokenizer.model').write_bytes(bytes_tokenizer.model_proto)
  for init in (f'hf:{tmp_path}', f'workdir:{tmp_path}'):
    assert (
      tokenizers.for_source(init, 'student.init').digest
      == bytes_tokenizer.digest
    )
  assert tokenizers.for_source('random', 'student.init') is None
  assert tokenizers.for_source('teacher', 'student.init') is None


@pytest.mark.parametrize(
  'spec, message',
  [
    ('byte', "did you mean 'bytes'"),
    ('ggf:x', "did you mean 'gguf'"),
    ('model:/nowhere.model', 'no such file'),
    ('gguf:/nowhere.gguf', 'no such file'),
    ('hf:/nowhere', 'no such folder'),
    ('bytes:x', 'takes no file'),
    ('model:', 'names no file'),
  ],
)
def test_wrong_specs(spec, message):
  with pytest.raises(errors.ConfigError, match=message):
    tokenizers.load(spec)


def test_wrong_files(tmp_path):
  (tmp_path / 'tokenizer.json').write_text('{}')
  for load, kind in (
    (tokenizers.load, 'model'),
    (tokenizers.for_source, 'gguf'),
  ):
    with pytest.raises(errors.ConfigError) as e:
      load(f'{kind}:{tmp_path}/tokenizer.json', 'student.init')
    assert str(e.value).startswith(f'student.init: {tmp_path}/tokenizer.json: ')
  with pytest.raises(errors.ConfigError, match='contains tokenizer.json'):
    tokenizers.load(f'hf:{tmp_path}')
  with pytest.raises(errors.ConfigError, match='is not a SentencePiece model'):
    tokenizers.load(f'model:{tmp_path}/tokenizer.json')
  with pytest.raises(errors.ConfigError, match='a GGUF file'):
    tokenizers.load(f'gguf:{tmp_path}/tokenizer.json')
