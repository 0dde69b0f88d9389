"""Tests lines of GSM8K as thoughts: equal, wrong and terminal states."""

import json
import os
import re

import pytest

from kd.core import errors
from kd.reasoning.trees import gsm8k
from kd.reasoning.trees import problems
from kd.reasoning.trees import tree_problem

PROBLEM = gsm8k.Gsm8k()


def _state(*lines, answer='#### 10'):
  state = PROBLEM.root(tree_problem.Instance('g', 'How many?', answer))
  for line in lines:
    state = PROBLEM.apply(state, line)
  return state


@pytest.mark.parametrize(
  'line,right',
  [
    ('#### 10', True),
    ('So the answer is #### $10.00.', True),
    ('####  10 apples', True),
    ('#### -10', False),
    ('#### ,', False),
    ('#### 1e1', False),
    ("#### __import__('os').system('touch X')", False),
    ('#### 3 #### 10', True),  # The last one counts, as everywhere.
  ],
)
def test_the_marked_line_ends_a_path(line, right, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  state = _state('12-2=10', line)
  assert PROBLEM.is_terminal(state)
  assert PROBLEM.is_solution(state) == right
  assert not os.listdir(tmp_path)


def test_a_correct_answer_after_a_wrong_step_is_not_a_solution():
  state = _state('12-3=10', '#### 10')
  assert PROBLEM.is_terminal(state) and not PROBLEM.is_solution(state)
  assert PROBLEM.verify(state) == 0
  assert PROBLEM.verify(_state('1/0=0')) == 0
  assert PROBLEM.verify(_state('12-2=10')) > PROBLEM.verify(_state('Hm.')) > 0


def test_without_a_reference_any_number_is_a_solution():
  assert PROBLEM.is_solution(_state('#### 3', answer=''))
  assert not PROBLEM.is_solution(_state('#### none', answer=''))


def test_equivalent_states_are_equal():
  key = lambda *lines: PROBLEM.key(_state(*lines))
  assert key('He has 3*4=12 pens.') == key('So there are 3 * 4 = 12.')
  assert key('3*4=12') == key('3*4=12', 'Thus 3*4=12')
  assert key('3*4=12', '5+5=10') == key('5+5=10', '3*4=12')
  assert key('3*4=12') != key('4*4=16') and key('Hm.') != key('No.')


def test_invalid_lines_have_a_kind():
  for line, kind in (
    ('', 'empty'),
    (' \t\n', 'empty'),
    ('9' * 5000, 'no_parse'),
  ):
    with pytest.raises(tree_problem.Fault) as e:
      _state(line)
    assert e.value.kind == kind


def test_examples_pass_the_projects_own_rules():
  for example in PROBLEM.examples(PROBLEM.max_examples).split('\n\n')[:-1]:
    lines = example.split('Answer:\n')[1].splitlines()
    state = _state(*lines, answer='')
    assert PROBLEM.is_solution(state)
    assert PROBLEM.verify(_state(*lines[:-1])) == 1


def test_most_of_the_real_solutions_pass():
  path = os.path.join(os.environ.get('KD_DATA_DIR', ''), gsm8k.FILE)
  if not os.path.isfile(path):
    pytest.skip(f'KD_DATA_DIR holds no {gsm8k.FILE}')
  instances = problems.instances(problems.SOURCES['gsm8k'], path, 0, 600)
  passed = 0
  with open(path, encoding='utf-8') as f:
    for instance, record in zip(instances, f, strict=False):
      work = re.sub('<<[^<>]*>>', '', json.loads(record)['answer'])
      state = PROBLEM.root(instance)
      for line in filter(str.strip, work.splitlines()):
        assert not PROBLEM.is_terminal(state)
        state = PROBLEM.apply(state, line)
      assert len(state.thoughts) <= gsm8k.MAX_PATH_LENGTH
      passed += PROBLEM.is_solution(state)
  assert len(instances) == 600 and 0.97 * 600 < passed < 600


@pytest.mark.parametrize(
  'line',
  [
    '{',
    '[]',
    '{"question": "a"}',
    '{"question": "a", "answer": "no number"}',
    '{"question": 3, "answer": "#### 3"}',
    '{"question": "a", "answer": 3}',
    '{"question": "caf\u00e9?", "answer": "#### 3"}',
    r'{"question": "hi \ud83d?", "answer": "#### 3"}',
  ],
)
def test_a_wrong_line_is_named(line, tmp_path):
  path = tmp_path / 'p.jsonl'
  text = '{"question": "a", "answer": "#### 3"}\n' + line + '\n'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(errors.ConfigError, match='p.jsonl:2'):
    gsm8k.read(str(path))


def test_instances_are_read_from_files_or_refused(tmp_path, monkeypatch):
  source = problems.SOURCES['gsm8k']
  monkeypatch.delenv('KD_DATA_DIR', raising=False)
  with pytest.raises(errors.ConfigError, match=r'search\.data.*KD_DATA_DIR'):
    problems.instances(source, '', 0, -1)
  path = tmp_path / 'gsm8k' / 'train.jsonl'
  path.parent.mkdir()
  path.write_text('{"question": "a", "answer": "#### 3"}\n' * 3)
  monkeypatch.setenv('KD_DATA_DIR', str(tmp_path))
  assert len(problems.instances(source, '', 1, -1)) == 2
  with pytest.raises(errors.ConfigError, match=r'search\.first: found 3'):
    problems.instances(source, str(path), 3, 1)
