"""Images, from a file of chats to the pixels of a batch."""

import base64
import copy
import io
import json

import numpy as np
from PIL import Image
import pyarrow
from pyarrow import parquet
import pytest

from kd.core import errors
from kd.data_files import chats as chats_lib
from kd.data_files import source as source_lib
from kd.images import form as form_lib
from kd.images import pictures
from kd.input_pipeline import data_statistics
from kd.input_pipeline import encoding
from kd.input_pipeline import image_rows
from kd.input_pipeline import image_tokens
from kd.input_pipeline import mixtures
from kd.input_pipeline import packing
from kd.input_pipeline import prepare
from kd.input_pipeline import rationale_dropping
from kd.input_pipeline import retry
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import shown_rows
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

_SIDE, _TOKENS, _LENGTH = 8, 4, 96
_BYTES = tokenizers.load('bytes')
_FORM = form_lib.Form(_SIDE, _TOKENS, _BYTES.image_ids[1], per_row=2)


def _png(level, size=(20, 10)):
  buffer = io.BytesIO()
  Image.new('RGB', size, (level, 0, 255 - level)).save(buffer, 'PNG')
  return buffer.getvalue()


def _data_url(data):
  return f'data:image/png;base64,{base64.b64encode(data).decode()}'


def _chat(*parts, answer='yes'):
  return {
    'messages': [
      {'role': 'user', 'content': [*parts]},
      {'role': 'assistant', 'content': answer},
    ]
  }


def _text(text):
  return {'type': 'text', 'text': text}


def _prepare(file, cache, form=_FORM, **changes):
  arguments = {
    'tokenizer': _BYTES,
    'template': 'gemma',
    'length': _LENGTH,
    'pack': True,
    'seed': 0,
    'cache_dir': str(cache),
    'limit': -1,
    'retry_policy': retry.RetryPolicy(1, 0.0, 60.0),
    'form': form,
  } | changes
  component = mixtures.Component('images', source_lib.Source(str(file)))
  (part,) = prepare.prepare(
    mixtures.Mixture((component,), ''), 'train', **arguments
  )
  return part


def _write(folder, *chats):
  file = folder / 'chats.jsonl'
  file.write_text(''.join(json.dumps(chat) + '\n' for chat in chats))
  return file


def _batch(part, size, step=0):
  rows = rows_lib.Rows([part], size, 0, shuffle=False, rates='rows')
  return rows(step, range(size))


def test_all_forms_of_an_image_give_the_same_row(tmp_path):
  (tmp_path / 'a.png').write_bytes(_png(200))
  url = {'type': 'image_url', 'image_url': {'url': _data_url(_png(200))}}
  coded = base64.b64encode(_png(200)).decode()
  forms = [
    _chat({'type': 'image', 'path': 'a.png'}, _text('red?')),
    _chat(url, _text('red?')),
    _chat({'type': 'image', 'base64': coded}, _text('red?')),
    _chat({'type': 'image'}, _text('red?')) | {'images': ['a.png']},
    _chat({'type': 'image'}, _text('red?')) | {'images': [{'path': 'a.png'}]},
    {'prompt': 'red?', 'completion': 'yes', 'images': 'a.png'},
  ]
  part = _prepare(_write(tmp_path, *forms), tmp_path / 'rows', pack=False)
  batch = _batch(part, len(forms))
  for name in (*packing.FIELDS,):
    field = getattr(batch, name)
    assert (field == field[:1]).all(), name
  assert (batch.images.pixels[:, 0] == [200, 0, 55]).all()
  assert not batch.images.pixels[:, 1].any()
  start, soft, end = _BYTES.image_ids
  places = np.flatnonzero(batch.images.index[0] >= 0)
  assert batch.images.index[0][places].tolist() == [*range(_TOKENS)]
  assert (batch.tokens[0][places] == soft).all()
  assert batch.tokens[0][places[0] - 1] == start
  assert batch.tokens[0][places[-1] + 1] == end
  assert not (batch.targets == soft).any()
  assert not batch.weights[:, : places[-1] + 1].any()


def test_packed_rows_keep_each_image_with_its_question(tmp_path):
  chats = [
    _chat(
      _text(f'{i}'),
      *[
        {'type': 'image_url', 'image_url': {'url': _data_url(_png(10 * i + j))}}
        for j in range(i % 3)
      ],
      answer='x' * (i % 4 + 1),
    )
    for i in range(12)
  ]
  part = _prepare(_write(tmp_path, *chats), tmp_path / 'rows')
  assert sum(part.images) == sum(i % 3 for i in range(12))
  assert max(part.images) == _FORM.per_row
  whole = rows_lib.Numbered([part])
  seen = []
  for row in range(len(whole)):
    batch = whole([row])
    for segment in range(1, batch.segment_ids.max() + 1):
      at = batch.segment_ids[0] == segment
      # The number in the question determines its colors.
      asked = _BYTES.decode(batch.tokens[0][at & (batch.images.index[0] < 0)])
      number = int(''.join(filter(str.isdigit, asked)))
      index = batch.images.index[0][at]
      slots = np.unique(index[index >= 0] // _TOKENS)
      colors = batch.images.pixels[0, slots, 0, 0, 0].tolist()
      assert colors == [10 * number + j for j in range(number % 3)]
      seen.append(number)
  assert sorted(seen) == [*range(12)]


def test_rows_of_a_step_spread_images_deterministically(tmp_path):
  image = {'type': 'image_url', 'image_url': {'url': _data_url(_png(9))}}
  chats = [_chat(*([image] if i < 8 else []), _text(f'{i}')) for i in range(16)]
  part = _prepare(_write(tmp_path, *chats), tmp_path / 'rows', pack=False)
  rows = rows_lib.Rows([part], 16, 3, shuffle=True, rates='rows')
  batch = rows(5, range(16))
  has_image = (batch.images.index >= 0).any(-1)
  assert has_image.sum() == 8
  assert has_image.reshape(4, 4).sum(1).tolist() == [2] * 4  # of 4 devices
  assert has_image.reshape(8, 2).sum(0).tolist() == [4, 4]  # of micro-batches
  part_of_it = rows_lib.Rows([part], 16, 3, shuffle=True, rates='rows')(5, [9])
  assert part_of_it.row_id == batch.row_id[9]
  assert (part_of_it.images.pixels[0] == batch.images.pixels[9]).all()
  assert sorted(batch.row_id) == [*range(16)]


def test_a_changed_image_makes_new_rows(tmp_path):
  (tmp_path / 'a.png').write_bytes(_png(200))
  file = _write(tmp_path, _chat({'type': 'image', 'path': 'a.png'}))
  first = _prepare(file, tmp_path / 'rows')
  assert _prepare(file, tmp_path / 'rows').reused
  (tmp_path / 'a.png').write_bytes(_png(100, (30, 30)))
  second = _prepare(file, tmp_path / 'rows')
  assert not second.reused
  assert _batch(second, 1).images.pixels[0, 0, 0, 0, 0] == 100
  assert first.counts['rows_sha256'] != second.counts['rows_sha256']


def test_bad_images_are_refused_by_name_or_skipped(tmp_path):
  (tmp_path / 'cut.png').write_bytes(_png(200, (300, 300))[:-60])
  (tmp_path / 'text.png').write_bytes(b'no image')
  good = _chat(_text('hello'))
  for part, told in (
    ({'type': 'image', 'path': 'cut.png'}, 'is damaged'),
    ({'type': 'image', 'path': 'text.png'}, 'is not an image'),
    ({'type': 'image', 'path': 'none.png'}, 'cannot be read'),
    ({'type': 'image', 'url': 'http://x/y.png'}, 'data.images.urls'),
    ({'type': 'image'}, 'names no image'),
  ):
    file = _write(tmp_path, good, _chat(part))
    with pytest.raises(errors.ConfigError, match=told) as e:
      _prepare(file, tmp_path / 'rows')
    assert f'{file}:2: messages[0].content: image 1' in str(e.value)
    skipped = _prepare(file, tmp_path / 'rows', on_error='skip')
    assert skipped.counts['skipped']['count'] == 1
    assert _batch(skipped, 1).images is None
  file = _write(tmp_path, _chat(_text('forged \0')))
  with pytest.raises(errors.ConfigError, match='null character'):
    _prepare(file, tmp_path / 'rows')
  file = _write(tmp_path, _chat({'type': 'image', 'url': _data_url(_png(1))}))
  with pytest.raises(errors.ConfigError, match='student.vision'):
    _prepare(file, tmp_path / 'rows', form=None)


def test_records_contain_each_file_once():
  a, b = b'a' * 1000, b'b' * 7
  slots = [image_tokens.Slot(*s) for s in ((a, 0), (a, 1), (b, 0), (a, 0))]
  record = image_rows.to_bytes(b'fields..', slots)
  assert len(record) < 1100
  assert image_rows.from_bytes(record) == (b'fields..', slots)
  assert image_rows.from_bytes(image_rows.to_bytes(b'', [])) == (b'', [])


def test_images_move_with_dropped_rationales(tmp_path):
  image = {'type': 'image_url', 'image_url': {'url': _data_url(_png(77))}}
  chat = _chat(_text('a'), answer='0123456789')['messages']
  chat[1]['rationale'] = '0123'
  chat += _chat(_text('b'), image, answer='c')['messages']
  part = _prepare(_write(tmp_path, {'messages': chat}), tmp_path / 'rows')
  rows = rows_lib.Rows([part], 1, 0, shuffle=False, rates='rows')
  shortened = rationale_dropping.Shortened(
    rows, lambda step: 1.0, 0, _BYTES.pad_id
  )
  before, after = rows(0, [0]), shortened(0, [0])
  old = np.flatnonzero(before.images.index[0] >= 0)
  new = np.flatnonzero(after.images.index[0] >= 0)
  assert (old - new == 4).all()
  assert (after.tokens[0][new] == _FORM.soft_id).all()
  text = before.images.index[0] < 0
  kept = after.images.index[0] < 0
  said = _BYTES.decode(before.tokens[0][text])
  assert _BYTES.decode(after.tokens[0][kept]) == said.replace('0123', '')
  assert after.targets.min() >= 0 and after.targets.max() < _BYTES.vocab_size
  assert (after.images.pixels == before.images.pixels).all()


def test_pan_and_scan_adds_crops_as_images(tmp_path):
  wide = _png(50, (1100, 300))
  assert len(pictures.crops(1100, 300)) == 4
  form = form_lib.Form(_SIDE, _TOKENS, _FORM.soft_id, 5, pan_and_scan=True)
  file = _write(tmp_path, _chat({'type': 'image', 'url': _data_url(wide)}))
  part = _prepare(file, tmp_path / 'rows', form, length=300)
  batch = _batch(part, 1)
  assert part.images == [5]
  assert (batch.images.index >= 0).sum() == 5 * _TOKENS
  said = _BYTES.decode(batch.tokens[0][batch.images.index[0] < 0])
  assert 'here are some crops to help you see better' in said


def test_images_are_counted_and_shown(tmp_path):
  image = {'type': 'image_url', 'image_url': {'url': _data_url(_png(1))}}
  other = {'type': 'image_url', 'image_url': {'url': _data_url(_png(2))}}
  chats = [_chat(x, _text('red?')) for x in (image, other, image)]
  encoder = encoding.Encoder(_BYTES, 'gemma', _LENGTH, form=_FORM)
  statistics = data_statistics.Statistics(encoder)
  source = source_lib.Source(str(_write(tmp_path, *chats)))
  for number, example in enumerate(source.read('train', pytest.fail)):
    (whole,) = encoder.encode(example, number)
    statistics.add(example, whole)
  counts = statistics.counts(_LENGTH)
  assert counts['images'] == {
    'count': 3,
    'smallest': [20, 10],
    'largest': [20, 10],
  }
  assert counts['duplicates'] == 1  # The third example equals the first.
  at = data_statistics.packing_at([statistics], 10_000, True, 0)
  assert at['rows'] == 2  # With two images at most.
  assert shown_rows.text([whole], _BYTES, color=False) == (
    '<bos><start_of_turn>user\n\n\n[image of 20 x 10]\n\nred?<end_of_turn>\n'
    '<start_of_turn>model\n[[yes<end_of_turn>]]\n'
  )


def test_text_rows_are_the_same_with_and_without_images(tmp_path):
  file = _write(tmp_path, *[_chat(_text(f'{i}')) for i in range(9)])
  with_form = _prepare(file, tmp_path / 'rows')
  without = _prepare(file, tmp_path / 'rows', form=None)
  a, b = _batch(with_form, 4), _batch(without, 4)
  assert a.images is None and b.images is None
  for name in packing.FIELDS:
    assert (getattr(a, name) == getattr(b, name)).all()


def test_columns_of_hugging_face_and_json_keep_images(tmp_path):
  rows = [
    {
      'messages': [
        {
          'role': 'user',
          'content': [
            {'type': 'image', 'text': None},
            {'type': 'text', 'text': 'or'},
            {'type': 'image', 'text': None},
          ],
        },
        {
          'role': 'assistant',
          'content': [{'type': 'text', 'text': 'the first'}],
        },
      ],
      'images': [
        {'bytes': _png(10), 'path': 'a.png'},
        {'bytes': _png(20), 'path': None},
      ],
    }
  ]
  file = tmp_path / 'chats.parquet'
  parquet.write_table(pyarrow.Table.from_pylist(rows), file)
  part = _prepare(file, tmp_path / 'rows')
  assert _batch(part, 1).images.pixels[0, :, 0, 0, 0].tolist() == [10, 20]
  (example,) = part.examples()
  chat = example['messages']
  assert chats_lib.parse(chats_lib.dump(chat), 'chat') == chat
  one = rows[0] | {'images': rows[0]['images'][:1]}
  with pytest.raises(errors.ConfigError, match='image 2: names no image'):
    chats_lib.check(one['messages'], 'row', None, one['images'])
  with pytest.raises(errors.ConfigError, match='messages have 2 places'):
    chats_lib.check(rows[0]['messages'], 'row', None, [_png(1)] * 3)


def test_a_text_with_a_soft_token_is_refused():
  start, _, end = _BYTES.image_ids
  tokenizer = copy.copy(_BYTES)  # Its vocabulary has the soft token as a text.
  tokenizer.image_ids = start, _BYTES.encode('~')[0], end
  form = form_lib.Form(_SIDE, _TOKENS, tokenizer.image_ids[1], per_row=2)
  chat = templates.exchange('a', 'b')
  ids, _, _ = templates.encode(tokenizer, 'gemma', chat, form)
  assert ids.tolist() == templates.encode(tokenizer, 'gemma', chat)[0].tolist()
  with pytest.raises(errors.ConfigError, match='which is reserved for images'):
    templates.encode(tokenizer, 'gemma', templates.exchange('a~', 'b'), form)
