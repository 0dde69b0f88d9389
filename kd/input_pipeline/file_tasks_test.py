"""Files as data of a run: rows, rates, splits, counts, and rows as text."""

import json

import pytest

from kd.config import base
from kd.core import errors
from kd.input_pipeline import conversations
from kd.input_pipeline import data_statistics
from kd.input_pipeline import encoding
from kd.input_pipeline import examples
from kd.input_pipeline import mixtures
from kd.input_pipeline import packing
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import shown_rows
from kd.input_pipeline import tokenizers

_LENGTH = 40


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.load('bytes')


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A user's folder, in which the program is started."""
  pairs = [{'prompt': f'q{i}', 'completion': 'a' * (i % 25)} for i in range(60)]
  _write(
    tmp_path / 'pairs.jsonl', [pair for pair in pairs if pair['completion']]
  )
  _write(tmp_path / 'books.jsonl', [{'text': 'b' * n} for n in (10, 100, 171)])
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def _config(mixture, **data):
  config = base.get_config()
  config.data.mixture = mixture
  config.data.update(data)
  config.evaluation.sets.held_out.examples = 4
  return config


def _prepare(config, mixture, split, folder, tokenizer):
  data = config.data
  return prepare.prepare(
    mixture,
    split,
    tokenizer=tokenizer,
    template='plain',
    length=_LENGTH,
    pack=True,
    seed=3,
    cache_dir=str(folder / 'rows'),
    limit=-1,
    retry_policy=retry.RetryPolicy(attempts=1, wait_s=0.0, timeout_s=60.0),
    long=data.long,
    chunk_overlap=data.chunk_overlap,
    on_error=data.on_error,
    say=lambda line: None,
  )


def test_files_and_tasks_are_mixed_and_counted(folder, tokenizer):
  entries = (('pairs.jsonl', 3), 'books.jsonl', ('cot_math_v1', 4))
  config = _config(entries, held_out=0.1, chunk_overlap=5)
  trained = mixtures.training(config)
  pairs = examples.tasks(trained, 'train')
  assert [(task.name, rate) for task, rate in pairs] == [
    ('pairs.jsonl', 3),
    ('books.jsonl', 1),
    ('arithmetic_cot', 1),
    ('gsm8k_answer', 1),
    ('gsm8k_cot', 2),
  ]
  files = mixtures.training(_config(entries[:2], held_out=0.1, chunk_overlap=5))
  assert files.module == '' and trained.module
  made = _prepare(config, files, 'train', folder, tokenizer)
  assert not made[0].reused
  encoder = encoding.Encoder(tokenizer, 'plain', _LENGTH, 'chunk', 5)
  whole = encoding.Encoder(tokenizer, 'plain', 9999)
  for (task, _), part in zip(pairs[:2], made, strict=True):
    statistics = data_statistics.Statistics(encoder)
    for i, example in enumerate(examples.stream(task, 'train', '', -1, print)):
      statistics.add(example, *whole.encode(example, i))
    counts = statistics.counts(_LENGTH)
    assert counts['examples'] == part.counts['examples']
    # Each id of a document is a target once; a dropped chat has no targets.
    left_out = part.counts['too_long']
    assert counts['too_long'] == left_out
    if not left_out:
      assert counts['target_weight'] == part.counts['target_weight']
    at = data_statistics.packing_at([statistics], _LENGTH, True, 3)
    assert (at['rows'], at['fill']) == (
      part.counts['rows'],
      part.counts['fill'],
    )
    total = sum(
      count for *_, count in data_statistics.histogram(statistics.lengths)
    )
    assert total == statistics.examples
  # An edited file is noticed; nothing is, and rows are reused.
  assert _prepare(config, files, 'train', folder, tokenizer)[0].reused
  with open(folder / 'pairs.jsonl', 'a', encoding='utf-8') as f:
    f.write('{"prompt": "new", "completion": "new"}\n')
  assert not _prepare(config, files, 'train', folder, tokenizer)[0].reused


def test_rows_belong_to_the_files_of_the_current_folder(
  folder, tokenizer, monkeypatch
):
  mixture = mixtures.training(_config('x.jsonl'))
  for text in ('here', 'there'):
    (folder / text).mkdir()
    monkeypatch.chdir(folder / text)
    _write(folder / text / 'x.jsonl', [{'text': text}, {'text': 'both'}])
    (part,) = _prepare(
      config=_config('x.jsonl'),
      mixture=mixture,
      split='train',
      folder=folder,
      tokenizer=tokenizer,
    )
    assert not part.reused
    assert {e['text'] for e in part.examples()} <= {text, 'both'}


def test_calls_are_the_answer_of_a_chat(tokenizer):
  call = {'name': 'f', 'arguments': {'a': 1}}
  chat = [
    {'role': 'user', 'content': 'hi'},
    {'role': 'assistant', 'content': '', 'weight': 1.0, 'tool_calls': [call]},
  ]
  example = {'id': '', 'messages': chat}
  wanted = {
    'gemma': '{"name": "f", "parameters": {"a": 1}}',
    'qwen3_no_thinking': '<tool_call>\n{"name": "f", "arguments": {"a": 1}}'
    '\n</tool_call>',
  }
  for template, text in wanted.items():
    assert conversations.reference(example, template) == text
  encoder = encoding.Encoder(tokenizer, 'gemma', 9999)
  statistics = data_statistics.Statistics(encoder)
  statistics.add(example, *encoder.encode(example, 0))
  assert statistics.empty == 0
  with pytest.raises(errors.ConfigError, match="'plain'.*tool calls"):
    encoding.Encoder(tokenizer, 'plain', 9999).encode(example, 0)


def test_duplicates_empty_answers_and_shared_prompts_are_counted(tokenizer):
  encoder = encoding.Encoder(tokenizer, 'plain', 9999)
  statistics = data_statistics.Statistics(encoder)
  for i, (prompt, answer) in enumerate(['xa', 'ya', 'xa', 'xb', 'x ']):
    example = {'id': '', 'inputs': prompt, 'targets': answer, 'rationale': ''}
    statistics.add(example, *encoder.encode(example, i))
  assert (statistics.duplicates, statistics.empty) == (1, 1)
  assert len(statistics.prompts) == 2
  assert statistics.supervised == 10  # Each answer and its EOS.


def test_files_are_split_unless_the_set_has_its_own_data(folder):
  config = _config('pairs.jsonl')
  assert mixtures.training(config).components[0].source.held_out == 0.05
  assert mixtures.held_out(config, 'held_out') == mixtures.training(config)
  # A set with its own file uses all of it, and training all of its file.
  config.evaluation.sets.held_out.mixture = 'books.jsonl'
  for mixture in (
    mixtures.training(config),
    mixtures.held_out(config, 'held_out'),
  ):
    assert mixture.components[0].source.held_out == 0
  # Sets that read a split declared by the folder use no part of `train`.
  saved = folder / 'saved'
  saved.mkdir()
  (saved / 'dataset_dict.json').write_text('{"splits": ["train", "test"]}')
  config = _config('./saved')
  assert mixtures.training(config).components[0].source.held_out == 0.05
  config.evaluation.sets.held_out.split = 'test'
  assert mixtures.training(config).components[0].source.held_out == 0
  config = _config('pairs.jsonl', held_out=0.0)
  with pytest.raises(errors.ConfigError, match='data.held_out: found 0'):
    mixtures.held_out(config, 'held_out')


def test_answers_are_compared_with_those_of_the_file(folder):
  import seqio

  config = _config('pairs.jsonl')
  examples.register(mixtures.training(config))
  task = seqio.TaskRegistry.get('pairs.jsonl')
  (function,) = task.predict_metric_fns
  predictions = [task.postprocess_fn(text) for text in ('a\n', 'b')]
  metric = function(['a', 'c'], predictions)['same_answer']
  assert metric == 0.5 and metric.values == (1, 0)
  # Other programs that read the task with seqio get texts.
  dataset = task.get_dataset(split='train', shuffle=False)
  first = next(dataset.as_numpy_iterator())
  assert first == {'id': b'pairs.jsonl:1', 'inputs': b'q1', 'targets': b'a'}


def test_wrong_lines_are_refused_or_listed(folder, tokenizer):
  _write(folder / 'x.jsonl', [{'text': 'good'}, {'txet': 'bad'}, {'text': ''}])
  config = _config('x.jsonl', on_error='skip')
  config.evaluation.sets = {}
  mixture = mixtures.training(config)
  (part,) = _prepare(config, mixture, 'train', folder, tokenizer)
  skipped = part.counts['skipped']
  assert (part.counts['examples'], skipped['count']) == (1, 2)
  assert "x.jsonl:2: has 'txet', but none of" in skipped['first'][0]
  assert '2 invalid examples skipped' in part.describe()
  config.data.on_error = 'refuse'
  with pytest.raises(
    errors.ConfigError, match="x.jsonl:2.*did you mean 'text'"
  ):
    _prepare(config, mixture, 'train', folder, tokenizer)
  with pytest.raises(errors.ConfigError, match="did you mean './rows'"):
    examples.tasks(mixtures.training(_config('rows')), 'train')


def test_rows_as_text(tokenizer):
  chat = [
    {'role': 'user', 'content': 'a\x1b'},
    {'role': 'assistant', 'content': 'b', 'weight': 0.5},
  ]
  encoder = encoding.Encoder(tokenizer, 'gemma', 99)
  row = encoder.encode({'id': '', 'messages': chat}, 0)
  row += encoder.encode({'id': '', 'text': 'c'}, 1)
  assert all(isinstance(example, packing.Example) for example in row)
  start = r'<bos><start_of_turn>user' '\n' r'a\x1b<end_of_turn>' '\n'
  start += '<start_of_turn>model\n'
  between = '\n\n--- next example in the row ---\n<bos>'
  assert shown_rows.text(row, tokenizer, color=False) == (
    f'{start}[[0.5: b<end_of_turn>]]{between}[[c<eos>]]'
  )
  assert shown_rows.text(row, tokenizer, color=True) == (
    f'{start}\x1b[33m0.5: b<end_of_turn>\x1b[0m{between}\x1b[32mc<eos>\x1b[0m'
  )
