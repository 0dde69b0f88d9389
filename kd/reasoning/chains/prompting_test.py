"""Tests prompts, and problems read from files and tasks."""

import json

import pytest

from kd.core import errors
from kd.input_pipeline import templates
from kd.reasoning.arithmetic import answers
from kd.reasoning.chains import prompting
from kd.reasoning.chains import questions

FORM = 'Question: {question}\nAnswer:\n'
LINES = [
  {'question': f'{a} + 1?', 'answer': f'{a}+1=<<{a}+1={b}>>{b}\n#### {b}'}
  for a, b in ((0, 1), (1, 2), (2, 3))
] + [{'question': 'Who?', 'id': 'me'}, {'question': '{x}', 'answer': 'no idea'}]


def _write(path, lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return str(path)


@pytest.fixture(name='problems')
def _problems(tmp_path):
  return questions.read_file(_write(tmp_path / 'p.jsonl', LINES), FORM)


def test_lines_of_gsm8k_are_problems(problems):
  assert [q.id for q in problems] == [
    'line-1',
    'line-2',
    'line-3',
    'me',
    'line-5',
  ]
  found = [answers.extract(q.solution).value for q in problems]
  assert found == [1, 2, 3, None, None]
  assert problems[0].rationale == '0+1=<<0+1=1>>1'
  assert problems[4].inputs == 'Question: {x}\nAnswer:\n'


def test_few_shot_prompts_and_their_stop_strings(problems):
  shots, rest = questions.split_shots(problems, 2)
  assert [q.id for q in rest] == ['line-3', 'me', 'line-5']
  (message,) = prompting.messages('few_shot', 'unused', shots, rest[1])
  assert message['content'] == (
    'Question: 0 + 1?\nAnswer:\n0+1=1\n#### 1\n\n'
    'Question: 1 + 1?\nAnswer:\n1+1=2\n#### 2\n\n'
    'Question: Who?\nAnswer:\n'
  )
  assert prompting.stop_strings('few_shot', problems) == ('\nQuestion:',)
  other = [problems[0], questions.Question('x', 'How?', '', '')]
  assert prompting.stop_strings('few_shot', other) == ()
  assert prompting.stop_strings('chat', problems) == ()


def test_chats_are_rendered_by_the_template(problems):
  shots, rest = questions.split_shots(problems, 1)
  messages = prompting.messages('chat', 'Think.', shots, rest[0])
  text, turns = templates.render('gemma', messages, generate=True)
  assert text == (
    '<bos><start_of_turn>user\nThink.\n\nQuestion: 0 + 1?\nAnswer:'
    '<end_of_turn>\n<start_of_turn>model\n0+1=1\n#### 1<end_of_turn>\n'
    '<start_of_turn>user\nQuestion: 1 + 1?\nAnswer:<end_of_turn>\n'
    '<start_of_turn>model\n'
  )
  assert len(turns) == 1
  prompting.check('chat', 0, 'plain')
  with pytest.raises(errors.ConfigError, match="reasoning.style: found 'chat'"):
    prompting.check('chat', 1, 'plain')


@pytest.mark.parametrize(
  'lines, words',
  [
    ([], 'is empty'),
    ([{'question': 'x'}, {'answer': 'x'}], 'p.jsonl:2: has no question'),
    ([{'question': 1}], 'question is 1; legal: text'),
    ([{'question': 'x', 'reply': 'x'}], "unknown key 'reply'"),
    ([{'question': 'x', 'id': 'line-2'}, {'question': 'y'}], 'of line 1'),
    (['x'], "p.jsonl:1: holds 'x', not an object"),
  ],
)
def test_bad_files_are_named(tmp_path, lines, words):
  path = _write(tmp_path / 'p.jsonl', lines)
  with pytest.raises(errors.ConfigError, match=words):
    questions.read_file(path, FORM)


def test_too_many_examples_are_refused(problems):
  with pytest.raises(errors.ConfigError, match='legal: 0 to 3'):
    questions.split_shots(problems, 4)
  with pytest.raises(errors.ConfigError, match='no problem is left'):
    questions.split_shots(problems[:3], 3)
