"""Tests tasks of written traces: rows, splits and bad lines."""

import json

import pytest
import seqio

from kd.core import errors
from kd.data import mixtures
from kd.data import sources
from kd.input_pipeline import arithmetic
from kd.reasoning.arithmetic import answers
from kd.reasoning.chains import chains
from kd.reasoning.chains import questions
from kd.reasoning.chains import selection
from kd.reasoning.chains import traces


@pytest.fixture(name='path')
def _path(tmp_path, monkeypatch):
  """Writes a file with kd/reasoning: two traces for each of 60 problems."""
  groups, prompts = [], []
  for i in range(10, 70):
    question = questions.Question(
      f'q{i}', f'Question: {i} + 1?\nAnswer:\n', f'#### {i + 1}', ''
    )
    texts = (
      f'{i} + 1 = {i + 1} in all.\n#### {i + 1}',
      f'1 + {i} = {i + 1}\n#### {i + 1}',
    )
    samples = [traces.SampledSolution(text, 'stop', 9, -1.0) for text in texts]
    groups.append(traces.judge(question, samples))
    prompts.append(chains.Prompt(question, (2, i), i))
  rules = selection.Rules('correct', 0.0, 'right', 1, 0, 0)
  kept, _ = selection.select(groups, rules)
  path = chains.write(str(tmp_path), kept, prompts, {})
  monkeypatch.setenv('KD_TRACES', path)
  return path


def _read(name, split):
  task = seqio.get_mixture_or_task(name)
  dataset = task.get_dataset(split=split, shuffle=False)
  return [
    {key: value.decode() for key, value in row.items()}
    for row in dataset.as_numpy_iterator()
  ]


def test_tasks_of_one_file(path):
  assert mixtures and path == sources.traces()
  cot = _read('traces_cot', 'train')
  held = _read('traces_cot', 'validation')
  assert len(cot) + len(held) == 120 and held
  # All traces of a problem are in one split.
  assert not {e['inputs'] for e in cot} & {e['inputs'] for e in held}
  assert all(arithmetic.split_of(e['inputs']) == 'train' for e in cot)
  for example in cot:
    work, _, last = example['targets'].rpartition('\n')
    assert work == example['rationale'] != ''
    assert last.startswith('#### ')
  questions_ = {e['inputs']: answers.extract(e['targets']).value for e in cot}
  for name, prefix in (('traces_answer', ''), ('traces_label', '[label] ')):
    bare = _read(name, 'train')
    assert {e['inputs'] for e in bare} == {prefix + q for q in questions_}
    assert len(bare) == len(questions_)
    for example in bare:
      wanted = questions_[example['inputs'].removeprefix(prefix)]
      assert example['targets'] == f'#### {wanted}'
      assert example['rationale'] == ''
  work = _read('traces_rationale', 'train')
  assert [e['targets'] for e in work] == [e['rationale'] for e in cot]
  assert all(e['targets'] == e['rationale'] for e in work)
  assert all(e['inputs'].startswith('[rationale] Question') for e in work)
  mixture = seqio.get_mixture_or_task('step_by_step_v1')
  assert {t.name for t in mixture.tasks} == {'traces_label', 'traces_rationale'}


def test_bad_lines_and_missing_files_are_named(path, monkeypatch):
  with open(path, 'a', encoding='utf-8') as f:
    f.write(json.dumps({'id': 'x', 'inputs': 'y'}) + '\n')
  with pytest.raises(
    errors.ConfigError, match='traces.jsonl:121: has no targets'
  ):
    _read('traces_cot', 'train')
  monkeypatch.setenv('KD_TRACES', path + '.none')
  with pytest.raises(errors.ConfigError, match='KD_TRACES: is not set'):
    _read('traces_cot', 'train')
