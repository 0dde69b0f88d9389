"""Tests hostile text: nothing raises, and time is linear in its length."""

import contextlib
import os
import random
import time

import pytest

from kd.reasoning.arithmetic import notation
from kd.reasoning.arithmetic import steps
from kd.reasoning.chains import questions
from kd.reasoning.chains import traces
from kd.reasoning.trees import game24_answers
from kd.reasoning.trees import tree_problem

_QUESTION = questions.Question('q', '1 2 3 4', '#### 10', '')
_CHARACTERS = 2**15  # Length of a text; quadratic time would be minutes.
_SECONDS = 4  # CPU time: five times that of the slowest text.


def _judge(text):
  """Applies all checks to a reply; returns its trace."""
  (trace,) = traces.judge(
    _QUESTION, [traces.SampledSolution(text, 'stop', 1, 0.0)]
  )
  assert isinstance(trace.rationale + trace.text_key, str)
  assert isinstance(trace.steps_key, tuple)
  assert (trace.answer.value is None) == bool(trace.answer.reason)
  assert all(step.kind in steps.KINDS for step in trace.steps)
  verdict = game24_answers.check(_QUESTION.inputs, text)
  assert verdict.right or verdict.reason in game24_answers.REASONS
  for read in (tree_problem.read_value, lambda t: tree_problem.read_vote(t, 9)):
    with contextlib.suppress(tree_problem.Fault):
      read(text)
  return trace


@pytest.mark.parametrize(
  'piece',
  [
    *('a', 'x ', '7', '1 ', '1 000 ', "1'", '1.', '1,', '1_', '(', '(1+', '{'),
    *(' ', '\n', '\r', '\t', '*', '** ', 'a*', '=', '1=', '1+1=2 ', '<<1='),
    *('a Q: ', '\nQ :', '\nQuestion 1', '####', '#### 5\n', 'answer is ', '[('),
    *('\\boxed{', '\\boxed{1} ', '\\text{', '\\frac{', '\\frac{1}{', '^{', '|'),
    *('1x', '1x ', 'x' + ' ' * 90, '1/2 ', '9**', '9^', '1 a (b) ', '\u2019'),
    *('1 hour 2 ', '1 or ', '\u00b2', '\uff11\u3002', '\u4e00', '\u00bd'),
  ],
)
def test_time_is_linear(piece):
  for behind in ('', ' answer = 5'):
    text = (piece * _CHARACTERS)[:_CHARACTERS] + behind
    begin = time.process_time()
    _judge(text)
    assert time.process_time() - begin < _SECONDS


def test_texts_beyond_the_limit_are_not_judged():
  text = '2+2=5\n#### 4'.rjust(notation.MAX_CHARS + 1)
  begin = time.process_time()
  trace = _judge(text)
  assert time.process_time() - begin < 1
  assert trace.answer.value is None and 'longer than' in trace.answer.reason
  assert trace.steps == ()
  assert _judge(text[1:]).answer.value == 4
  assert not game24_answers.check('4 6', '4*6'.rjust(len(text))).right


_FRAGMENTS = (
  *('0', '1', '24', '12,000', '3.5', '.5', '1/2', '9' * 50, '0' * 9, '\u0661'),
  *(
    '+',
    '-',
    '*',
    '/',
    '^',
    '**',
    '=',
    '==',
    'x',
    '%',
    '(',
    ')',
    '[',
    ']',
    '|',
  ),
  *(
    ' ',
    '  ',
    '\n',
    '\r\n',
    '\t',
    '\x00',
    '\x0b',
    '\u2028',
    '\u00a0',
    '\u202f',
  ),
  *('####', '#### ', '<<', '>>', '<<1+1=2>>', '{', '}', '\\', '\\\\', '\\,'),
  *('\\boxed{', '\\text{', '\\frac{', '\\frac12', '^{', '_', '{,}', '\\$', '$'),
  *('answer is ', 'Answer:', '\nQ: ', '\nQuestion 2: ', '\n**Problem:** '),
  *(
    '\u00bd',
    '\u00b2',
    '\u00d7',
    '\u2212',
    '\u3002',
    '\uff0c',
    '\uff11',
    '\u2460',
  ),
  *(
    'apples',
    ' each',
    ' of ',
    ' and ',
    ' or ',
    ' million',
    'equals',
    ' hours ',
    "'",
  ),
  *('\ud83d', '\U0001f600', '\ue000', '\ue001', '\ue002', '\u202e', '\u4e07'),
)


def test_random_text_neither_raises_nor_hangs():
  seed = int(os.environ.get('KD_FUZZ_SEED', random.randrange(2**32)))
  print(f'KD_FUZZ_SEED={seed}')  # Shown by pytest if the test fails.
  rng = random.Random(seed)
  begin, slowest, count = time.process_time(), 0.0, 0
  while time.process_time() - begin < 2:
    size = rng.choice((3, 10, 30, 100, 1000))
    some = rng.choices(_FRAGMENTS, k=rng.randrange(1, 12))
    text = ''.join(rng.choices(some, k=size))
    before = time.process_time()
    _judge(text)
    slowest = max(slowest, time.process_time() - before)
    count += 1
  assert slowest < 2 and count > 30
