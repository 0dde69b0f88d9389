"""Users' files: every format, splits by prompt, and errors."""

import dataclasses
import gzip
import json
import resource
import shutil

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from kd.core import errors
from kd.data_files import examples
from kd.data_files import json_rows
from kd.data_files import locations
from kd.data_files import source

_CHAT = [
  {'role': 'user', 'content': 'hi'},
  {'role': 'assistant', 'content': 'yes'},
]


def _raise(error):
  raise error


def _lines(rows):
  return ''.join(json.dumps(row) + '\n' for row in rows).encode()


def _read(path, split='train', bad=_raise, **settings):
  return list(source.Source(str(path), **settings).read(split, bad))


def _refused(path, **settings):
  with pytest.raises(errors.ConfigError) as e:
    _read(path, **settings)
  return str(e.value).replace(str(path), 'FILE')


def _write_arrow(path, table, form):
  with pyarrow.OSFile(str(path), 'wb') as sink, form(sink, table.schema) as w:
    w.write_table(table)


_ROWS = [
  {'id': f'n{i}', 'messages': [*_CHAT, {'role': 'user', 'content': 'é😀'}]}
  for i in range(600)
]


@pytest.fixture(scope='module')
def formats(tmp_path_factory):
  """The same rows in every format."""
  folder = tmp_path_factory.mktemp('formats')
  data = _lines(_ROWS)
  table = pyarrow.Table.from_pylist(_ROWS)
  (folder / 'a.jsonl').write_bytes(data)
  (folder / 'b.json').write_bytes(data.replace(b'\n', b'\r\n\r\n'))
  (folder / 'c.jsonl.gz').write_bytes(gzip.compress(data))
  with pyarrow.CompressedOutputStream(str(folder / 'd.jsonl.zst'), 'zstd') as f:
    f.write(data)
  parquet.write_table(table, folder / 'e.parquet', row_group_size=100)
  _write_arrow(folder / 'f.arrow', table, pyarrow.ipc.new_file)
  # A DatasetDict as written by save_to_disk of Hugging Face's library.
  saved = folder / 'saved'
  halves = table.slice(0, 300), table.slice(300)
  for split in ('train', 'validation'):
    (saved / split).mkdir(parents=True)
    names = [f'data-{i:05}-of-00002.arrow' for i in range(2)]
    for name, half in zip(names, halves, strict=True):
      _write_arrow(saved / split / name, half, pyarrow.ipc.new_stream)
    state = {'_data_files': [{'filename': name} for name in names]}
    (saved / split / 'state.json').write_text(json.dumps(state))
  text = json.dumps({'splits': ['train', 'validation']})
  (saved / 'dataset_dict.json').write_text(text)
  return folder


@pytest.mark.parametrize('name', [*'abcdef', 'saved'])
def test_every_format_gives_the_same_examples(name, formats):
  (path,) = formats.glob(f'{name}*')
  read = _read(path)
  assert [e['id'] for e in read] == [row['id'] for row in _ROWS]
  assert read[-1]['messages'] == [
    {'role': 'user', 'content': 'hi', 'weight': 0.0},
    {'role': 'assistant', 'content': 'yes', 'weight': 1.0},
    {'role': 'user', 'content': 'é😀', 'weight': 0.0},
  ]


def test_patterns_folders_and_splits(formats, tmp_path):
  assert len(_read(f'{formats}/[ae].*')) == 1200
  assert len(_read(formats / 'saved' / 'train')) == 600
  saved = source.Source(str(formats / 'saved'), held_out=0.5)
  assert saved.splits() == ('train', 'validation')
  # Only the folder's own split is held out.
  assert [len(list(saved.read(s, _raise))) for s in saved.splits()] == [600] * 2
  # Without such a split, `train` is divided; other splits are complete.
  text = json.dumps({'splits': ['train', 'test']})
  other = shutil.copytree(formats / 'saved', tmp_path / 'other')
  (other / 'validation').rename(other / 'test')
  (other / 'dataset_dict.json').write_text(text)
  whole = source.Source(str(other))
  path = other / 'train' / 'data-00000-of-00002.arrow'
  rows = [{'prompt': f'p{i}', 'completion': 'a'} for i in range(300)]
  _write_arrow(path, pyarrow.Table.from_pylist(rows), pyarrow.ipc.new_stream)
  half = dataclasses.replace(whole, held_out=0.5)
  train, test, validation = (list(half.read(s, _raise)) for s in half.splits())
  assert (len(train) + len(validation), len(test)) == (600, 600)
  assert {e['id'] for e in validation} and not (
    {e['id'] for e in train} & {e['id'] for e in validation}
  )
  # `**` matches folders at any depth, including none.
  (tmp_path / 'a' / 'b').mkdir(parents=True)
  for folder in ('', 'a', 'a/b'):
    (tmp_path / folder / 'x.jsonl').write_bytes(_GOOD)
  assert len(_read(f'{tmp_path}/**/*.jsonl')) == 3
  assert len(_read(f'{tmp_path}/a/**')) == 2
  assert "did you mean '" in _refused(formats / 'a.josnl')
  assert 'cannot tell the format' in _refused(formats / 's*')


def test_names():
  for name in ('chats.jsonl', 'a/b', './x', '*.parquet', '~/x', 'x.jsonl.zst'):
    assert locations.is_location(name), name
  for name in ('gsm8k_cot', 'my.task:v2', ''):
    assert not locations.is_location(name), name
  assert locations.task_name('/a/chats.jsonl') == 'chats.jsonl'
  assert locations.task_name('data/*.parquet') == 'data_.parquet'
  assert locations.task_name('./my chats/') == 'my_chats'


def _texts(path, split, held_out):
  return [e['inputs'] for e in _read(path, split, held_out=held_out)]


def test_prompts_are_held_out_by_their_hash(tmp_path, monkeypatch):
  path = tmp_path / 'pairs.jsonl'
  # Each prompt three times: all of them are in one split.
  rows = [{'prompt': f'p{i % 200}', 'completion': f'{i}'} for i in range(600)]
  path.write_bytes(_lines(rows))
  for held_out, expected in ((0.1, 20), (7, 7), (0.0001, 1)):
    train = _texts(path, 'train', held_out)
    validation = _texts(path, 'validation', held_out)
    assert len(set(validation)) == expected
    assert len(train) + len(validation) == 600
    assert not set(train) & set(validation)
    ordered = [row['prompt'] for row in rows]
    assert train == [p for p in ordered if p not in validation]
  before = _texts(path, 'validation', 0.1)
  monkeypatch.setattr(source, '_SMALL', 0)
  large = set(_texts(path, 'validation', 0.1))
  assert 5 < len(large) < 40
  # In a large source, the same prompts remain held out as it grows.
  path.write_bytes(_lines(rows[::-1] + [{'prompt': 'q', 'completion': '.'}]))
  assert set(_texts(path, 'validation', 0.1)) - {'q'} == large
  assert before
  assert 'none is left to train on' in _refused(path, held_out=201)


_GOOD = json.dumps({'prompt': 'a', 'completion': 'b'}).encode() + b'\n'


def _message(**changes):
  return _lines([{'messages': [_CHAT[0], _CHAT[1] | changes]}])


@pytest.mark.parametrize(
  'data, message',
  [
    (
      _GOOD + b'{"prompt": "caf\xe9", "completion": "b"}\n',
      'FILE:2: is not UTF-8',
    ),
    (b'\xef\xbb\xbf' + _GOOD, 'FILE:1: begins with a byte order mark'),
    ('{"prompt": "a"}'.encode('utf-16'), 'FILE:1: is UTF-16'),
    (_GOOD + _GOOD[:-9], 'FILE:2: the file ends within this line'),
    (b'[1]\n', 'FILE:1: holds [1], not an object'),
    (_lines([{'promt': 'a', 'completion': 'b'}]), "did you mean 'prompt'?"),
    (_lines([{'prompt': 'a', 'completon': 'b'}]), "did you mean 'completion'?"),
    (_lines([{'mesages': _CHAT}]), "did you mean 'messages'?"),
    (_lines([{'prompt': 'a', 'completion': 5}]), 'FILE:1: completion: is 5'),
    (_lines([{'prompt': ' ', 'completion': 'b'}]), 'FILE:1: prompt: is empty'),
    (_lines([{'text': 'a\0b'}]), 'FILE:1: text: has a null character'),
    (b'{"text": "\\ud83d"}\n', 'FILE:1: has half of a surrogate pair'),
    (
      _lines([{'text': 'a', 'prompt': 'b', 'completion': 'c'}]),
      'has prompt and',
    ),
    (_message(content=''), 'FILE:1: messages[1].content: is empty'),
    (_message(role='asistant'), "role 'asistant'; legal"),
    (_message(role='asistant'), "did you mean 'assistant'?"),
    (_message(role='user'), "FILE:1: messages[1].role: found 'user'; legal: "),
    (_message(wieght=0), "key 'wieght'; legal"),
    (_message(weight=-1), 'FILE:1: messages[1].weight: is -1'),
    (_message(train=False), 'has no message to train on'),
    (_message(tool_calls=[{'name': 'f', 'arguments': '[1]'}]), 'arguments: is'),
    (_message(rationale='no'), "'no' does not begin the content"),
    (_lines([{'messages': [_CHAT[0] | {'weight': 1}]}]), 'on a user message'),
    (_lines([{'messages': []}]), 'FILE:1: messages: are []'),
    (_lines([{'id': [1], 'text': 'a'}]), 'FILE:1: id: is [1]'),
    (
      _lines([{'prompt': 'a', 'completion': _CHAT[1:], 'rationale': 'y'}]),
      'FILE:1: rationale: is given, but completion is a list of messages',
    ),
    (
      _lines([{'messages': _CHAT, 'rationale': 'y'}]),
      'FILE:1: rationale: is given, but messages has no such column',
    ),
    (
      _lines([{'messages': _CHAT, 'tools': [{}]}]),
      'FILE:1: tools: lists tools',
    ),
  ],
)
def test_wrong_examples_are_named_or_skipped(data, message, tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(data)
  assert message in _refused(path)
  skipped = []
  if 'UTF-16' not in message:
    read = _read(path, bad=skipped.append)
    assert len(skipped) == 1 and len(read) == data.startswith(_GOOD)


def test_endless_lines_need_little_memory(tmp_path, monkeypatch):
  monkeypatch.setattr(json_rows, 'LONGEST', 1 << 20)
  path = tmp_path / 'x.jsonl.gz'
  with gzip.open(path, 'wb', compresslevel=1) as f:
    for _ in range(256):
      f.write(b'x' * (1 << 20))
    f.write(b'\n' + _GOOD)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  skipped = []
  assert len(_read(path, bad=skipped.append)) == 1
  assert 'FILE:1' in str(skipped[0]).replace(str(path), 'FILE')
  used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert used < 64 << 10  # KiB


@pytest.mark.parametrize('name', ['c.jsonl.gz', 'd.jsonl.zst', 'e.parquet'])
def test_damaged_files(name, formats, tmp_path):
  data = (formats / name).read_bytes()
  path = tmp_path / name
  path.write_bytes(data[: len(data) // 2])
  assert 'FILE: is damaged' in _refused(path)


def test_parquet_text_that_is_not_utf8(tmp_path):
  path = tmp_path / 'x.parquet'
  column = pyarrow.array([b'good', b'caf\xe9']).view(pyarrow.string())
  parquet.write_table(pyarrow.table({'text': column}), path)
  skipped = []
  assert [e['text'] for e in _read(path, bad=skipped.append)] == ['good']
  assert 'row 2: is not UTF-8' in str(skipped[0])


def test_calls_of_tools(tmp_path):
  """Arrow gives all calls the same arguments, null where a call has none."""
  calls = [
    {'name': 'f', 'arguments': {'city': 'Bonn'}},
    {'name': 'g', 'arguments': {'zone': {'hours': 1}}},
  ]
  said = {'role': 'assistant', 'content': None, 'tool_calls': calls}
  rows = [{'prompt': 'a', 'completion': [said]}]
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'x.parquet')
  (tmp_path / 'x.jsonl').write_bytes(_lines(rows))
  for name in ('x.jsonl', 'x.parquet'):
    (example,) = _read(tmp_path / name)
    assert example['messages'][1]['tool_calls'] == calls


def test_columns_weights_and_pairs(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(
    _lines(
      [
        {'question': 'a', 'answer': 'b', 'n': 7},
        {'question': 'c', 'answer': 'd', 'w': 0.5},
        {
          'chat': [
            {'from': 'human', 'value': 'e'},
            {'from': 'gpt', 'value': 'f'},
          ]
        },
      ]
    )
  )
  columns = examples.Columns(
    prompt='question',
    completion='answer',
    messages='chat',
    id='n',
    weight='w',
    role='from',
    content='value',
  )
  first, second, third = _read(path, columns=columns)
  assert first == {'id': '7', 'inputs': 'a', 'targets': 'b', 'rationale': ''}
  assert second['id'] == 'x.jsonl:2'
  assert [m['weight'] for m in second['messages']] == [0.0, 0.5]
  assert [m['role'] for m in third['messages']] == ['user', 'assistant']
  # The prompt does not include the answer.
  row = {'messages': [*_CHAT, *_CHAT], 'prompt': 'hi'}
  asked = examples.prompt(row, 'x', examples.Columns())
  assert [m['content'] for m in asked] == ['hi', 'yes', 'hi']
  assert np.isclose(sum(m['weight'] for m in asked), 1)
