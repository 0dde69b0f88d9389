"""Byte-level BPE: ids, offsets, special tokens, files and what is refused."""

import json
import random
import unicodedata

import pytest
import tokenizers as library

from kd.core import errors
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level

_SIZE = trained_byte_level.VOCABULARY
_END, _START_TURN, _END_TURN = _SIZE, _SIZE + 1, _SIZE + 2


@pytest.fixture
def folder(tmp_path):
  trained_byte_level.write(tmp_path)
  return tmp_path


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  return tokenizers.load(
    trained_byte_level.write(tmp_path_factory.mktemp('qwen'))
  )


def _texts():
  rng = random.Random(0)
  words = ['def', ' self', '  ', '\n', '\r\n', '\t', '12', 'e\u0301', '\u4f60']
  words += ["it's", '\U0001f600', '\x00', '\u00e9', '\u1112\u1161\u11ab', ' ']
  words += ['<|endoftext', '|>', '<think>', '\u0301', 'a', '\u200d', '\ufb01']
  yield from ('', ' ', *words)
  for _ in range(300):
    yield ''.join(rng.choices(words, k=rng.randrange(12)))


def test_ids_equal_the_librarys_and_decode_to_the_normalized_text(tokenizer):
  own = library.Tokenizer.from_str(trained_byte_level.tokenizer_json())
  for text in _texts():
    ids = tokenizer.encode(text)
    if '<|endoftext|>' not in text:
      assert ids == own.encode(text).ids, repr(text)
    assert tokenizer.decode(ids) == unicodedata.normalize('NFC', text)
  assert tokenizer.vocab_size == _SIZE + 8
  with pytest.raises(errors.ConfigError, match='half of a surrogate pair'):
    tokenizer.encode('Thanks \ud83d')


def _with_offsets(tokenizer, text):
  ids, offsets = tokenizer.encode_with_offsets(text)
  return ids.tolist(), [tuple(pair) for pair in offsets.tolist()]


def test_offsets_cover_the_text(tokenizer):
  for text in _texts():
    ids, offsets = _with_offsets(tokenizer, text)
    assert ids == tokenizer.encode(text)
    covered = {i for begin, end in offsets for i in range(begin, end)}
    assert covered == set(range(len(text))), repr(text)
    assert offsets == sorted(offsets)
  # Both bytes of the composed letter come from the letter and from its mark.
  _, offsets = _with_offsets(tokenizer, 'ze\u0301\U0001f600')
  assert [pair for pair in offsets if pair[0] > 0][0] == (1, 3)
  assert offsets[-1] == (3, 4)


def test_special_tokens(tokenizer):
  assert (tokenizer.bos_id, tokenizer.eos_id) == (None, _END)
  assert tokenizer.pad_id == _END
  assert tokenizer.stop_ids == (_END, _END_TURN)
  assert tokenizer.id_of('<|im_end|>') == _END_TURN
  assert tokenizer.encode('<|im_start|>') == [_START_TURN]
  # A user's text never becomes EOS; the id of EOS is decoded to no text.
  assert _END not in tokenizer.encode('a<|endoftext|>b')
  assert tokenizer.id_of('<|endoftext|>') is None
  ids = tokenizer.encode('ab')
  assert tokenizer.decode([_END, *ids, -1, 10**9]) == 'ab'
  assert tokenizer.decode([_START_TURN]) == '<|im_start|>'
  # The bytes of an incomplete character.
  euro = tokenizer.encode('\u20ac')
  assert len(euro) > 1 and tokenizer.decode(euro[:-1]).strip('\ufffd') == ''
  assert tokenizer.text_of(_END) == '<|endoftext|>'


def _edit(folder, name, change):
  file = folder / name
  value = json.loads(file.read_text()) if file.exists() else {}
  value = change(value) or value
  file.write_text(json.dumps(value))


def test_base_and_chat_models_have_equal_tokenizers(tokenizer, folder):
  """They differ in eos_token, and end answers with the same tokens."""
  base = trained_byte_level.write(folder, eos_token='<|endoftext|>')
  (folder / 'generation_config.json').write_text('{"eos_token_id": [601, 600]}')
  read = tokenizers.load(base)
  assert read.digest == tokenizer.digest
  assert read.stop_ids == (_END, _END_TURN, 601)
  assert tokenizer_differences.describe(read, tokenizer) == ''


def test_a_file_saved_again_has_the_same_digest(tokenizer, folder):
  """Older files store merges as strings and have other byte-level flags."""

  def older(value):
    model = value['model']
    model['merges'] = [' '.join(pair) for pair in model['merges']]
    for part in value['pre_tokenizer']['pretokenizers'][1:]:
      part['trim_offsets'] = False
    value['post_processor'] = None

  _edit(folder, 'tokenizer.json', older)
  assert tokenizers.load(f'hf:{folder}').digest == tokenizer.digest


@pytest.mark.parametrize(
  'change, difference',
  [
    (
      lambda v: v['model']['merges'].insert(5, v['model']['merges'].pop(9)),
      'merge 5 is ',
    ),
    (lambda v: v.update(normalizer=None), 'normalizer is [] here, ['),
    (
      lambda v: v['added_tokens'][5].update(rstrip=True),
      "the added token '</tool_call>' has different matching flags",
    ),
    (lambda v: v['model'].update(ignore_merges=True), 'ignore_merges is True'),
    (lambda v: v.update(added_tokens=v['added_tokens'][:-1]), 'it has 607 ids'),
    (
      lambda v: v['added_tokens'][7].update(content='<x>'),
      "id 607 is '<x>' here, '</think>' there",
    ),
  ],
)
def test_changes_of_ids_change_the_digest_and_are_named(
  tokenizer, folder, change, difference
):
  _edit(folder, 'tokenizer.json', change)
  other = tokenizers.load(f'hf:{folder}')
  assert other.digest != tokenizer.digest
  text = tokenizer_differences.describe(other, tokenizer, 'here', 'there')
  assert difference in text
  one = tokenizers.load('bytes')
  text = tokenizer_differences.describe(one, tokenizer, 'here', 'there')
  assert text == 'it is a SentencePiece model here, a byte-level BPE there'


def _bos(value, text='<|endoftext|>', index=_END):
  first = {'SpecialToken': {'id': text, 'type_id': 0}}
  template = {
    'type': 'TemplateProcessing',
    'single': [first, {'Sequence': {'id': 'A', 'type_id': 0}}],
    'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}],
    'special_tokens': {text: {'id': text, 'ids': [index], 'tokens': [text]}},
  }
  value['post_processor'] = {
    'type': 'Sequence',
    'processors': [value['post_processor'], template],
  }


def test_texts_begin_with_bos_if_the_file_requires_it(folder):
  """As in Llama 3, whose tokenizer_config.json does not mention it."""

  def change(value):
    value['post_processor']['trim_offsets'] = True
    _bos(value)

  _edit(folder, 'tokenizer.json', change)
  read = tokenizers.load(f'hf:{folder}')
  assert read.bos_id == _END
  # Spaces belong to their tokens, regardless of the file's trim_offsets.
  assert _with_offsets(read, ' a a')[1] == [(0, 2), (2, 4)]
  exchange = templates.exchange('ab', 'a')
  ids, _, weights = templates.encode(read, 'plain', exchange)
  assert ids[0] == _END and ids[1] != _END and weights[0] == 0
  assert templates.encode(read, 'qwen3', exchange)[0][0] == _START_TURN


@pytest.mark.parametrize('name', ['qwen3', 'plain'])
def test_tokenizer_files_are_exported_unchanged(
  folder, tmp_path_factory, tokenizer, name
):
  jinja = templates.TEMPLATES['qwen3'].jinja + '{# as published #}'
  (folder / 'chat_template.jinja').write_text(jinja)
  (folder / 'special_tokens_map.json').write_text('{"a": 1}')
  (folder / 'generation_config.json').write_text('{"eos_token_id": 602}')
  read = tokenizers.load(f'hf:{folder}')
  run = tmp_path_factory.mktemp('run')
  for file, data in read.files().items():
    (run / file).write_bytes(data)
  kept = tokenizers.load(f'workdir:{run}')
  assert (kept.digest, kept.stop_ids) == (read.digest, read.stop_ids)
  exported = tmp_path_factory.mktemp('exported')
  hf_tokenizer.write(kept, exported, templates.TEMPLATES[name].jinja)
  files = {p.name: p.read_bytes() for p in exported.iterdir()}
  given = {p.name: p.read_bytes() for p in folder.iterdir()}
  del given['generation_config.json']  # The model's exporter writes it.
  if name == 'plain':
    given['chat_template.jinja'] = templates.TEMPLATES['plain'].jinja.encode()
  assert files == given
  assert tokenizers.load(f'hf:{exported}').digest == tokenizer.digest


def _renamed(vocabulary, token):
  return {'zzz' if t == token else t: i for t, i in vocabulary.items()}


def _model(**fields):
  return lambda value: value['model'].update(fields)


@pytest.mark.parametrize(
  'change, message',
  [
    (_model(type='WordPiece'), "model.type: found 'WordPiece'; legal: 'BPE'"),
    (_model(dropout=0.1), 'model.dropout: found 0.1'),
    (_model(end_of_word_suffix='</w>'), "end_of_word_suffix: found '</w>'"),
    (_model(ignore_merges=1), 'model.ignore_merges: found 1'),
    (_model(merges=[['a', 'zz']]), "'zz' is not a token of the vocabulary"),
    (_model(merges=7), 'model.merges: found 7'),
    (_model(vocab=7), 'model.vocab: found 7'),
    (_model(vocab={'!': 0}), 'model.vocab: '),
    (
      lambda v: v['model']['vocab'].update(zzz=5),
      'model.vocab: id 5 is both',
    ),
    (
      lambda v: v['model']['vocab'].update(
        {'zzz': v['model']['vocab'].pop('A')}
      ),
      "has no token 'A', which stands for byte 0x41",
    ),
    (
      lambda v: v['added_tokens'][0].update(id=5),
      "the added token '<|endoftext|>' has id 5",
    ),
    (lambda v: v['added_tokens'][1].update(id=600), 'id 600 is '),
    (
      lambda v: v['pre_tokenizer']['pretokenizers'][0]['pattern'].update(
        Regex='('
      ),
      'is not a tokenizer: ',
    ),
    (lambda v: v.update(normalizer={'type': 'X'}), 'is not a tokenizer: '),
    (lambda v: _bos(v, 5), 'post_processor: found '),
    (lambda v: _bos(v, index=608), 'found 608; legal: an id, 0 to 607'),
    (lambda v: _bos(v, index='x'), "found 'x'; legal: an id"),
    (
      lambda v: v.update(post_processor={'type': 'BertProcessing'}),
      "post_processor: found 'BertProcessing'",
    ),
  ],
)
def test_a_damaged_file_is_refused_by_name(folder, change, message):
  _edit(folder, 'tokenizer.json', change)
  with pytest.raises(errors.ConfigError) as caught:
    tokenizers.load(f'hf:{folder}', 'teacher.init')
  text = str(caught.value)
  assert text.startswith(f'teacher.init: {folder}/tokenizer.json')
  assert message in text and len(text) < 600


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('tokenizer_config.json', '{"eos_token": 5}', 'eos_token: found 5'),
    ('tokenizer_config.json', '{', 'is not JSON'),
    ('generation_config.json', '{"eos_token_id": [608]}', 'found 608; legal'),
    ('generation_config.json', '{"eos_token_id": "x"}', "found 'x'"),
    ('generation_config.json', '[]', 'not an object'),
  ],
)
def test_damaged_files_next_to_it_are_refused(folder, name, text, message):
  (folder / name).write_text(text)
  with pytest.raises(errors.ConfigError, match=message) as caught:
    tokenizers.load(f'hf:{folder}', 'teacher.init')
  assert f'{folder}/{name}' in str(caught.value)


def test_a_special_token_without_an_id_is_refused(folder):
  spec = trained_byte_level.write(folder, pad_token='[PAD]')
  with pytest.raises(errors.ConfigError, match=r"'\[PAD\]' has no id"):
    tokenizers.load(spec)
