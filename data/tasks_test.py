"""Tests of tasks: disjoint splits, labels, prompts, and errors in GSM8K."""

import json
import os

import pytest
import seqio

from kd.core import errors
from kd.data import mixtures
from kd.data import tasks
from kd.data.gsm8k import gsm8k_dataset_builder
from kd.reasoning.arithmetic import answers

_LINES = [
  {
    'question': f'What is {i} plus 1?',
    'answer': f'{i}+1=<<{i}+1={i + 1}>>{i + 1} in all.\n#### {i + 1}',
  }
  for i in range(200)
]


@pytest.fixture
def gsm8k(tmp_path, monkeypatch):
  """A KD_DATA_DIR with a small training file, and an empty HOME for outputs."""
  folder = tmp_path / 'files' / 'gsm8k'
  folder.mkdir(parents=True)
  (folder / 'train.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in _LINES)
  )
  monkeypatch.setenv('KD_DATA_DIR', str(tmp_path / 'files'))
  monkeypatch.setenv('HOME', str(tmp_path))
  return folder


def _read(name, split, count=-1):
  task = seqio.get_mixture_or_task(name)
  dataset = task.get_dataset(split=split, shuffle=False).take(count)
  return [
    {k: v.decode() for k, v in row.items()}
    for row in dataset.as_numpy_iterator()
  ]


def test_arithmetic_splits_and_noise():
  few = _read('arithmetic_few', 'train')
  noisy = _read('arithmetic_noisy', 'train')
  held = _read('arithmetic_cot', 'validation')
  assert len(few) == tasks.FEW_PROBLEMS
  assert held == _read('arithmetic_noisy', 'validation')
  assert held == _read('arithmetic_few', 'validation')
  seen = {e['inputs'] for e in few + noisy}
  assert not seen & {e['inputs'] for e in held}
  right = {e['inputs']: e['targets'] for e in few}
  changed = [
    e for e in noisy if e['targets'] != right.get(e['inputs'], e['targets'])
  ]
  assert 0.25 < len(changed) / len(few) < 0.35
  for example in few + noisy + held:
    assert len(example['inputs'] + example['targets']) < 62
    work, marker, _ = example['targets'].rpartition(' #### ')
    assert work and marker and example['rationale'] == work == work.strip()
  bare = _read('arithmetic_answer', 'train', 9)
  assert {e['rationale'] for e in bare} == {''}


def test_gsm8k_is_cleaned_and_split(gsm8k):
  assert gsm8k.is_dir()
  train, held = _read('gsm8k_cot', 'train'), _read('gsm8k_cot', 'validation')
  # Every line is in exactly one split.
  questions = [e['inputs'] for e in train + held]
  assert sorted(questions) == sorted(
    f'Question: {line["question"]}\nAnswer:\n' for line in _LINES
  )
  assert 0 < len(held) < 30
  first = next(e for e in train if e['id'] == 'gsm8k-train-8')
  assert first['targets'] == '7+1=8 in all.\n#### 8'
  assert first['rationale'] == '7+1=8 in all.'
  answer = next(
    e for e in _read('gsm8k_answer', 'train') if e['id'] == 'gsm8k-train-8'
  )
  assert (answer['targets'], answer['rationale']) == ('#### 8', '')


_RIGHT = b'"answer": "#### 3"}\n'


@pytest.mark.parametrize(
  'line, words',
  [
    (b'{"question": 1\n', 'is not JSON'),
    (b'\xef\xbb\xbf{"question": "a", ' + _RIGHT, 'is not JSON: .*BOM'),
    (b'{"question": "caf\xe9?", ' + _RIGHT, 'is not UTF-8: byte 0xe9'),
    (b'{"question": "hi \\ud83d?", ' + _RIGHT, r'.*half of .*, U\+D83D'),
    (b'["question", "answer"]\n', '.*not an object'),
    (b'{"question": "a"}\n', 'has no answer'),
    (b'{' + _RIGHT, 'has no question'),
    (b'{"question": 5, ' + _RIGHT, 'question is 5; legal: text'),
    (b'{"question": "a", "answer": 3}\n', 'answer is 3; legal: text'),
    (b'{"question": "a", "answer": null}\n', 'answer is None; legal: text'),
    (b'{"question": "a", "answer": "#### many"}\n', ".*ends with 'many'"),
  ],
)
def test_bad_lines_of_gsm8k_are_reported(line, words, gsm8k):
  with open(gsm8k / 'train.jsonl', 'ab') as f:
    f.write(line)
  with pytest.raises(
    errors.ConfigError, match=f'train.jsonl:201: {words}'
  ) as e:
    _read('gsm8k_cot', 'train')
  assert e.value.exit_code == 2


def test_blank_lines_of_gsm8k_are_skipped(gsm8k):
  before = _read('gsm8k_cot', 'train')
  with open(gsm8k / 'train.jsonl', 'ab') as f:
    f.write(b'\n \n')
  assert _read('gsm8k_cot', 'train') == before


def test_gsm8k_test_split_is_its_test_file(gsm8k):
  with pytest.raises(errors.ConfigError, match='contains no test.jsonl'):
    _read('gsm8k_cot', 'test')
  lines = [
    {'question': f'What is {i} times 2?', 'answer': f'#### {2 * i}'}
    for i in range(40)
  ]
  (gsm8k / 'test.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  found = _read('gsm8k_cot', 'test')
  assert [e['id'] for e in found] == [f'gsm8k-test-{n}' for n in range(1, 41)]
  assert [e['inputs'] for e in found] == [
    f'Question: {line["question"]}\nAnswer:\n' for line in lines
  ]
  # None of the test set is in the other splits.
  trained = _read('gsm8k_cot', 'train') + _read('gsm8k_cot', 'validation')
  assert len(trained) == len(_LINES)
  assert not {e['inputs'] for e in trained} & {e['inputs'] for e in found}


def test_missing_gsm8k_data_is_reported_with_a_remedy(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('KD_DATA_DIR', str(tmp_path / 'nowhere'))
  # A port that nothing listens on: the download fails at once, anywhere.
  monkeypatch.setattr(gsm8k_dataset_builder, '_SOURCE', 'http://127.0.0.1:9/')
  with pytest.raises(
    errors.ConfigError, match='nowhere.*could not be downloaded.*legal: net'
  ):
    _read('gsm8k_cot', 'train')


def test_real_gsm8k_answers_can_be_parsed():
  path = os.path.join(os.environ.get('KD_DATA_DIR', ''), 'gsm8k/train.jsonl')
  if not os.path.isfile(path):
    pytest.skip('KD_DATA_DIR contains no gsm8k/train.jsonl')
  with open(path) as f:
    for line in f:
      text, work = tasks.gsm8k_targets(json.loads(line)['answer'], steps=True)
      answer = answers.extract(text)
      assert answer.value is not None and answer.markers == 1
      assert '<<' not in text
      assert text.startswith(f'{work}\n{answers.MARKER} ')
      final = text.rpartition('#### ')[2].replace(',', '')
      assert answer.value == int(final)


def test_tasks_score_with_the_shared_extractor():
  assert mixtures
  mixture = seqio.get_mixture_or_task('cot_math_v1')
  assert {t.name: mixture.get_rate(t) for t in mixture.tasks} == {
    'gsm8k_cot': 2,
    'gsm8k_answer': 1,
    'arithmetic_cot': 1,
  }
  for task in mixture.tasks:
    read = task.postprocess_fn
    (metric,) = task.metric_fns
    out = metric(
      [read('#### 3', is_target=True)] * 2, [read('so #### 3.0'), read('none')]
    )
    assert out == {'exact_match': 0.5, 'unparsed': 1.0, 'many_markers': 0.0}
    assert read('#### 1,000') == answers.extract('#### 1000')
