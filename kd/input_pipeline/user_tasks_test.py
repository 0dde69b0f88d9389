"""A user's module: which changes are detected, and error messages."""

import os

import pytest

from kd.core import identity
from kd.data_files import source
from kd.input_pipeline import file_digests
from kd.input_pipeline import mixtures
from kd.input_pipeline import retry
from kd.input_pipeline import task_code
from kd.input_pipeline import user_cases

_PYTHON_READER = """
def read(split, shuffle_files):
  with open(os.path.join(HERE, 'mine.jsonl'), encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  columns = {key: [row[key] for row in rows] for key in ('inputs', 'targets')}
  return tf.data.Dataset.from_tensor_slices(columns)


add(NAME, seqio.FunctionDataSource(read, splits=['train']))
"""
# TensorFlow opens the file natively, so Python cannot observe it.
_TENSORFLOW_READER = """
def read(split, shuffle_files):
  return tf.data.TextLineDataset(os.path.join(HERE, 'mine.jsonl'))


def parse(dataset):
  return dataset.map(lambda line: {'inputs': line, 'targets': line})


add(NAME, seqio.FunctionDataSource(read, splits=['train']), parse)
"""
_FILE_SOURCE = """
def parse(dataset):
  return dataset.map(lambda line: {'inputs': line, 'targets': line})


source = seqio.TextLineDataSource({'train': os.path.join(HERE, '*.jsonl')})
add(NAME, source, parse)
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
  return user_cases.User(tmp_path, monkeypatch)


@pytest.mark.parametrize(
  'name, body',
  [
    ('python_reader', _PYTHON_READER),
    ('file_source', _FILE_SOURCE),
    ('declared', "DATA_FILES = ('*.jsonl',)\n" + _TENSORFLOW_READER),
    ('by_task', "DATA_FILES = {'by_*': ['mine.jsonl']}\n" + _TENSORFLOW_READER),
    ('folder', "DATA_FILES = ('.',)\n" + _TENSORFLOW_READER),
  ],
)
def test_edited_data_is_prepared_again(name, body, user):
  user.module(name, body)
  user.data(8)
  first = user.prepare(name)
  assert first.counts['examples'] == 8 and not first.reused
  again = user.prepare(name)
  assert again.reused and again.folder == first.folder
  assert 'UTC, reused' in again.describe()
  assert not any('warning' in line for line in user.lines)
  user.data(40)
  assert user.prepare(name).counts['examples'] == 40
  user.data(8)
  assert user.prepare(name).folder == first.folder


def test_new_files_of_a_pattern_are_noticed(user):
  user.module('pattern', _FILE_SOURCE)
  user.data(8)
  assert user.prepare('pattern').counts['examples'] == 8
  user.data(3, 'more.jsonl')
  # Within a process, seqio caches the files that a pattern matches.
  assert not user.prepare('pattern').reused


def test_undetectable_files_are_warned_of_once(user):
  user.module('unseen', _TENSORFLOW_READER)
  user.data(8)
  user.prepare('unseen')
  (line,) = [line for line in user.lines if line.startswith('warning')]
  assert "task 'unseen'" in line and 'DATA_FILES' in line
  user.data(40)
  assert user.prepare('unseen').counts['examples'] == 8
  assert not user.lines
  # Files that kd reads for another part of a mixture are not the task's.
  user.data(9, 'other.jsonl')
  files = source.Source(str(user.folder / 'other.jsonl'))
  mixed = user.prepare('unseen', files=(mixtures.Component('files', files),))
  known = mixed.manifest['sources']['tasks']
  assert known['files']['known'] and not known['unseen']['known']
  fresh = user.prepare('unseen', refresh=True)
  assert fresh.counts['examples'] == 40 and not fresh.reused
  assert user.prepare('unseen').folder == fresh.folder
  # The rows refreshed last are used, although these rows are older.
  user.data(8)
  user.prepare('unseen', refresh=True)
  assert user.prepare('unseen').counts['examples'] == 8


def test_a_helper_module_is_part_of_the_code(user):
  helpers = user.folder / 'helpers'
  helpers.mkdir()
  (helpers / '__init__.py').touch()
  (helpers / 'words.py').write_text('WORD = 1\n')
  (helpers / 'other.py').write_text('WORD = 1\n')
  body = "add(NAME, table(inputs=['a'], targets=['b']))"
  user.module('helped', body, 'def later():\n  from helpers import words\n')
  first = user.prepare('helped')
  (helpers / 'other.py').write_text('WORD = 2\n')
  (user.folder / 'unused.py').write_text('WORD = 2\n')
  assert user.prepare('helped').reused
  (helpers / 'words.py').write_text('WORD = 2\n')
  assert not user.prepare('helped').reused
  (helpers / 'words.py').write_text('WORD = 1\n')
  assert user.prepare('helped').folder == first.folder


def test_temporary_files_are_skipped_and_large_ones_not_hashed(
  user, monkeypatch
):
  body = "DATA_FILES = ('.',)\nadd(NAME, table(inputs=['a'], targets=['b']))"
  user.module('quiet', body)
  monkeypatch.setattr(file_digests, '_LARGE', 1000)
  user.data(100, 'large.jsonl')
  os.utime(user.folder / 'large.jsonl', (1e9, 1e9))
  user.prepare('quiet')
  (user.folder / '.git').mkdir()
  (user.folder / '.git' / 'x').touch()
  for name in ('.#quiet_tasks.py', 'a.swp', 'b~'):
    os.symlink('user@host.1234:1764371000', user.folder / name)
  os.mkfifo(user.folder / 'pipe')
  read, digest = [], identity.file_digest

  def note(path):
    read.append(path)
    return digest(path)

  monkeypatch.setattr(identity, 'file_digest', note)
  user.prepare('quiet')
  assert read and not any('large.jsonl' in path for path in read)


def test_invalid_declarations_are_refused(user):
  add = "add(NAME, table(inputs=['a'], targets=['b']))"
  user.module('typo', f"DATA_FILES = ('mine.jsnl',)\n{add}")
  assert "typo_tasks.DATA_FILES: no file matches 'mine.jsnl'" in user.refused(
    'typo'
  )
  user.module('text', f"DATA_FILES = 'mine.jsonl'\n{add}")
  assert "is 'mine.jsonl'; legal: a tuple" in user.refused('text')


_BUG = """
def look_up(example):
  return {'inputs': example['question'], 'targets': example['targets']}


add(
  NAME,
  table(inputs=['a'], targets=['b']),
  lambda dataset: dataset.map(look_up),
)
"""
_GENERATOR = """
def rows():
  yield {'inputs': 'a', 'targets': 'b'}
  yield {'inputs': {}['b'], 'targets': 'b'}


def read(split, shuffle_files):
  text = tf.TensorSpec((), tf.string)
  signature = {'inputs': text, 'targets': text}
  return tf.data.Dataset.from_generator(rows, output_signature=signature)


add(NAME, seqio.FunctionDataSource(read, splits=['train']))
"""


@pytest.mark.parametrize(
  'name, body, words',
  [
    (
      'latin',
      "add(NAME, table(inputs=[b'ok', b'caf\\xe9'], targets=['a', 'b']))",
      ["split 'train', example 'latin-1': feature 'inputs' is b'caf\\xe9'"],
    ),
    (
      'half',
      "add(NAME, table(inputs=['hi \\ud83d'], targets=['a']))",
      [
        'converting unicode string',
        'half_tasks.py',
        'from_tensor_slices(columns)',
      ],
    ),
    (
      'number',
      'FEATURE = seqio.Feature(FEATURE.vocabulary, add_eos=False, rank=0)\n'
      'add(NAME, table(inputs=[5], targets=[6]))',
      ["example 'number-0': feature 'inputs' is int", 'legal: text'],
    ),
    (
      'null',
      "add(NAME, table(inputs=['a', None], targets=['a', 'b']))",
      [
        "task 'null', split 'train': ValueError: Can't convert",
        'null_tasks.py',
      ],
    ),
    (
      'no_targets',
      "add(NAME, table(inputs=['a']))",
      ["task 'no_targets'", 'missing expected output feature', 'targets'],
    ),
    (
      'rank',
      "add(NAME, table(inputs=[['a', 'b']], targets=['a']))",
      ["task 'rank'", "incorrect rank for feature 'inputs'"],
    ),
    (
      'bug',
      _BUG,
      [
        "task 'bug', split 'train': KeyError: 'question' (bug_tasks.py:",
        ", in look_up\n    return {'inputs': example['question'], 'targets'",
      ],
    ),
    (
      'generator',
      _GENERATOR,
      [
        "after example 'generator-0': KeyError: 'b' (generator_tasks.py:",
        ", in rows\n    yield {'inputs': {}['b'], 'targets': 'b'}",
      ],
    ),
    ('empty', 'add(NAME, table(inputs=[], targets=[]))', ["'empty'"]),
    ('broken', 'add(', ['broken_tasks.py:', 'is not Python']),
    ('fails', 'add(1 / 0)', ['data.module: importing', 'ZeroDivisionError']),
    (
      'absent',
      "add(NAME, seqio.TextLineDataSource({'train': HERE + '/no-*.jsonl'}))",
      ['No file is found'],
    ),
    (
      'unreadable',
      'def read(split, shuffle_files):\n  open(HERE)\n\n\n'
      "add(NAME, seqio.FunctionDataSource(read, splits=['train']))",
      ['IsADirectoryError', 'open(HERE)'],
    ),
  ],
)
def test_wrong_data_and_code_are_refused_at_once(name, body, words, user):
  user.module(name, body)
  message = user.refused(name)
  for text in words:
    assert text in message, message
  for text in ('site-packages', '__autograph_generated_file', '/kd/'):
    assert text not in message, message


def test_only_disk_and_network_errors_are_retried(user):
  body = """
def read(split, shuffle_files):
  with open(os.path.join(HERE, 'calls'), 'a') as f:
    f.write('x')
  raise {error}


add(NAME, seqio.FunctionDataSource(read, splits=['train']))
"""
  for name, error in (
    ('disk', "OSError(5, 'Input/output error')"),
    ('server', "tf.errors.UnavailableError(None, None, 'no route')"),
  ):
    user.module(name, body.replace('{error}', error))
    with pytest.raises(retry.ReadError, match='in 3 attempts') as e:
      user.prepare(name)
    assert e.value.exit_code == 1 and user.retries == [0.5, 1.0]
    user.retries.clear()
  assert (user.folder / 'calls').read_text() == 'x' * 6


def test_rows_depend_only_on_code_that_makes_texts():
  files = task_code.find('kd.data.mixtures').files
  assert 'kd.reasoning.arithmetic.answers' in files
  assert 'kd.input_pipeline.arithmetic' in files
  assert 'kd.models.transformer' not in files and 'kd.library' not in files
