"""Folders without tokenizer.model, and with more tokens than it has."""

import json
import random
import shutil

import pytest

from kd.core import errors
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizer_differences
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_models


@pytest.fixture(scope='module')
def gemma_like():
  return sentencepiece_tokenizer.SentencePieceTokenizer(
    trained_models.train(**trained_models.GEMMA)
  )


@pytest.fixture
def folder(gemma_like, tmp_path):
  hf_tokenizer.write(gemma_like, tmp_path, '')
  return tmp_path


def _edit(folder, name, change):
  file = folder / name
  value = json.loads(file.read_text()) if file.exists() else {}
  value = change(value) or value
  file.write_text(json.dumps(value))


def _texts():
  rng = random.Random(0)
  words = ['def', ' self', 'add_argument', '  ', '\n', '12', '<end_of_turn>']
  words += [
    'caf\u00e9',
    '\u4f60\u597d',
    '\U0001f600',
    '\u2581',
    '<eos>',
    'th',
    'e',
  ]
  yield from (' ' * n + 'x' for n in range(20))
  for _ in range(500):
    yield ''.join(rng.choices(words, k=rng.randrange(12)))


def test_tokenizer_json_alone_has_the_ids_of_tokenizer_model(
  gemma_like, folder
):
  (folder / sentencepiece_models.MODEL_FILE).unlink()
  # Older files store a merge as one string.
  for old in (False, True):
    if old:
      join = lambda value: value['model'].update(
        merges=[' '.join(pair) for pair in value['model']['merges']]
      )
      _edit(folder, 'tokenizer.json', join)
    read = tokenizers.load(f'hf:{folder}')
    assert tokenizer_differences.describe(read, gemma_like) == ''
    for text in _texts():
      assert read.encode(text) == gemma_like.encode(text), repr(text)
      assert read.decode(read.encode(text)) == text.replace('\u2581', ' ')


@pytest.mark.parametrize('has_model', [True, False])
@pytest.mark.parametrize(
  'name', ['tokenizer.json', 'tokenizer_config.json', 'added_tokens.json']
)
def test_added_tokens_are_found_in_text_and_exported(
  gemma_like, folder, tmp_path_factory, has_model, name
):
  size = gemma_like.vocab_size

  def add(value):
    entries = {size: '<think>', size + 1: '</think>'}
    if name == 'added_tokens.json':
      value.update({text: i for i, text in entries.items()})
    elif name == 'tokenizer.json':
      value['added_tokens'] += [
        dict(id=i, content=text, special=True) for i, text in entries.items()
      ]
    else:
      value['added_tokens_decoder'] = {
        str(i): dict(content=text) for i, text in entries.items()
      }
      value['extra_special_tokens'] = list(entries.values())

  _edit(folder, name, add)
  if not has_model:
    (folder / sentencepiece_models.MODEL_FILE).unlink()
  read = tokenizers.load(f'hf:{folder}')
  assert read.vocab_size == size + 2
  inner = gemma_like.encode('some words')
  assert read.encode('<think>some words</think>') == [size, *inner, size + 1]
  assert read.encode('think>') == gemma_like.encode('think>')
  exported = tmp_path_factory.mktemp('exported')
  hf_tokenizer.write(read, exported, '')
  for _ in range(2):
    again = tokenizers.load(f'hf:{exported}')
    assert tokenizer_differences.describe(again, read) == ''
    (exported / sentencepiece_models.MODEL_FILE).unlink(missing_ok=True)


def test_the_image_token_is_left_out(gemma_like, folder):
  image = dict(id=gemma_like.vocab_size, content='<image_soft_token>')
  _edit(folder, 'tokenizer.json', lambda v: v['added_tokens'].append(image))
  for _ in range(2):
    read = tokenizers.load(f'hf:{folder}')
    assert tokenizer_differences.describe(read, gemma_like) == ''
    (folder / sentencepiece_models.MODEL_FILE).unlink(missing_ok=True)


def test_added_tokens_of_the_vocabulary_are_not_split(gemma_like, folder):
  """A piece without merges, like the unused tokens that fine-tunes rename."""
  index = [text for text, _, _ in gemma_like.pieces].index('el')
  added = dict(id=index, content='el')
  _edit(folder, 'tokenizer.json', lambda v: v['added_tokens'].append(added))
  read = tokenizers.load(f'hf:{folder}')
  assert index not in gemma_like.encode('self')
  assert index in read.encode('self')


def _added(**entry):
  def change(value):
    value['added_tokens'].append(dict(id=800, content='<x>') | entry)

  return 'tokenizer.json', change


def _model(**fields):
  return 'tokenizer.json', lambda value: value['model'].update(fields)


def _top(**fields):
  return 'tokenizer.json', lambda value: value.update(fields)


def _move_a_merge(value):
  merges = value['model']['merges']
  made = [left + right for left, right in merges]
  # The first of several ways to form one piece.
  at = next(i for i, p in enumerate(made) if made[i + 1] == p)
  merges.append(merges.pop(at))


def _config(**fields):
  return 'tokenizer_config.json', lambda value: value.update(fields)


@pytest.mark.parametrize(
  'change, message',
  [
    (_added(id=802), "added token '<x>' has id 802, and no token has id 800"),
    (_added(lstrip=True), "tokenizer.json: '<x>': lstrip is True"),
    (_added(single_word=True), 'single_word is True'),
    (_added(content='a b'), "the added token 'a b' contains a space"),
    (_added(content=5), 'added tokens: found 5'),
    (_added(id='800'), "id of an added token: found '800'"),
    (_added(id=5), "id 5 is '<x>', but '<end_of_turn>'"),
    (
      _added(content='x<end_of_turn>', normalized=True),
      'overlaps one that is not normalized',
    ),
    (_top(added_tokens=5), 'added_tokens: found 5'),
    (_config(extra_special_tokens=['<y>']), "'<y>' is a special token without"),
    (_config(pad_token='[PAD]'), r"'\[PAD\]' is a special token without an id"),
    (_config(added_tokens_decoder={'x': {}}), 'found'),
    (
      _config(added_tokens_decoder={'5': {'content': '<z>'}}),
      "tokenizer_config.json: id 5 is '<z>', but '<end_of_turn>' in .*json",
    ),
    (_model(vocab={'a': 0}), "id 7 is '<0x00>', but None in .*tokenizer.json"),
    (_model(vocab=7), 'model.vocab: found 7'),
    (('added_tokens.json', lambda v: {'<x>': [1]}), 'found .1.'),
  ],
)
def test_unusable_settings_are_refused_by_name(folder, change, message):
  name, edit = change
  _edit(folder, name, edit)
  with pytest.raises(errors.ConfigError, match=f'^teacher.init: .*{message}'):
    tokenizers.load(f'hf:{folder}', 'teacher.init')


@pytest.mark.parametrize(
  'change, message',
  [
    (_model(type='Unigram'), "model.type: found 'Unigram'"),
    (_model(type=None), 'model.type: found None'),
    (_top(model=[]), 'model.type: found'),
    (_model(byte_fallback=False), 'model.byte_fallback: found False'),
    (_model(dropout=0.1), 'model.dropout: found 0.1'),
    (_model(ignore_merges=True), 'model.ignore_merges: found True'),
    (_top(normalizer=None), 'normalizer: found None'),
    (_top(normalizer={'type': 'NFKC'}), "normalizer: found {'type': 'NFKC'}"),
    (_top(pre_tokenizer={'type': 'ByteLevel'}), 'pre_tokenizer: found'),
    (_top(decoder={'type': 'ByteLevel'}), 'decoder: found'),
    (_model(merges=None), 'model.merges: found None'),
    (_model(merges=[['a']]), "model.merges: found ['a']"),
    (_model(merges=[['a', 'b', 'c']]), 'model.merges: found'),
    (_model(merges=[]), 'it has 0 merges, where the vocabulary has'),
    (('tokenizer.json', _move_a_merge), 'comes again after'),
    (
      ('tokenizer.json', lambda v: v['model']['vocab'].update({'zzz': 5})),
      'id 5 is both',
    ),
    (
      ('tokenizer.json', lambda v: v['model']['vocab'].update({'zzz': 900})),
      'no token has id 800',
    ),
    (
      ('tokenizer.json', lambda v: v['model']['vocab'].pop('<0x41>') and v),
      'no token has id',
    ),
  ],
)
def test_a_tokenizer_json_without_an_equal_model_is_refused(
  folder, change, message
):
  (folder / sentencepiece_models.MODEL_FILE).unlink()
  name, edit = change
  _edit(folder, name, edit)
  with pytest.raises(errors.ConfigError, match='tokenizer.json') as caught:
    tokenizers.load(f'hf:{folder}', 'teacher.init')
  assert str(caught.value).startswith('teacher.init: ')
  assert message in str(caught.value)
  assert len(str(caught.value)) < 600


def test_a_folder_without_a_tokenizer_is_refused_with_its_files(folder):
  shutil.rmtree(folder)
  with pytest.raises(errors.ConfigError, match='t.init: .*: no such folder'):
    tokenizers.load(f'hf:{folder}', 't.init')
  folder.mkdir()
  (folder / 'vocab.txt').write_text('')
  with pytest.raises(errors.ConfigError, match='it contains vocab.txt'):
    tokenizers.load(f'hf:{folder}', 't.init')
  (folder / sentencepiece_models.MODEL_FILE).write_bytes(b'\xff' * 50)
  with pytest.raises(errors.ConfigError, match='is not a SentencePiece model'):
    tokenizers.load(f'hf:{folder}', 't.init')
