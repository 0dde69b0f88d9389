"""Tests the game of 24 against brute force, and replies that cheat."""

import fractions
import itertools
import os
import random

import pytest

from kd.core import errors
from kd.reasoning.trees import game24
from kd.reasoning.trees import game24_answers
from kd.reasoning.trees import tree_problem
from kd.reasoning.trees import tree_search

GAME = game24.Game24()
_PLAN = tree_search.SearchSettings(
  method='depth_first',
  proposals='enumerated',
  samples=1,
  shots=0,
  evaluator='exact',
  votes=1,
  breadth=100,
  depth=0,
  prune=0.0,
  deduplicate=True,
  solutions=1,
  max_calls=0,
  max_tokens=0,
  max_nodes=0,
  max_new_tokens=1,
  seed=0,
)


def _puzzle(question):
  return tree_problem.Instance('puzzle', question, '')


def _after(question, *thoughts):
  state = GAME.root(_puzzle(question))
  for thought in thoughts:
    state = GAME.apply(state, thought)
  return state


# The oracle has no steps or states; it enumerates orders x shapes x signs.
def _operate(sign, a, b):
  if None in (a, b) or (sign == '/' and not b):
    return None
  return {'+': a + b, '-': a - b, '*': a * b, '/': b and a / b}[sign]


_SHAPES = (
  lambda f, g, h, a, b, c, d: h(g(f(a, b), c), d),
  lambda f, g, h, a, b, c, d: h(f(a, g(b, c)), d),
  lambda f, g, h, a, b, c, d: f(a, h(g(b, c), d)),
  lambda f, g, h, a, b, c, d: f(a, g(b, h(c, d))),
  lambda f, g, h, a, b, c, d: g(f(a, b), h(c, d)),
)
_TEXTS = ('((AfB)gC)hD', '(Af(BgC))hD', 'Af((BgC)hD)', 'Af(Bg(ChD))') + (
  '(AfB)g(ChD)',
)


def _expressions(numbers):
  """Yields (value or None, text) of every expression of four numbers."""
  for order in sorted(set(itertools.permutations(numbers))):
    exact = [fractions.Fraction(n) for n in order]
    for signs in itertools.product('+-*/', repeat=3):
      calls = [lambda x, y, s=s: _operate(s, x, y) for s in signs]
      for shape, text in zip(_SHAPES, _TEXTS, strict=True):
        yield shape(*calls, *exact), _write(text, order, signs)


def _write(text, order, signs):
  named = dict(zip('ABCDfgh', (*map(str, order), *signs), strict=True))
  return ''.join(named.get(letter, letter) for letter in text)


def _solvable(numbers):
  return any(value == 24 for value, _ in _expressions(numbers))


def _data():
  path = os.path.join(os.environ.get('KD_DATA_DIR', ''), game24.FILE)
  if not os.path.isfile(path):
    pytest.skip(f'KD_DATA_DIR holds no {game24.FILE}')
  return game24.read(path)


def test_puzzles_are_solved_by_the_enumerated_search():
  puzzles = _data()
  assert len(puzzles) == 1362
  for puzzle in puzzles[::5]:
    search = tree_search.search(GAME, puzzle, _PLAN, None)
    with pytest.raises(StopIteration) as stop:
      next(search)
    solution = stop.value.value.solutions[0]
    # Rebuilt from the text only, and judged by the parser.
    thoughts = [node.thought for node in stop.value.value.path(solution)]
    answer = GAME.answer(_after(puzzle.question, *thoughts))
    assert game24_answers.check(puzzle.question, answer).right


def test_the_solver_agrees_with_brute_force_on_any_numbers():
  rng = random.Random(0)
  outcomes = set()
  for _ in range(25):
    numbers = [rng.randint(1, 13) for _ in range(4)]
    exact = tuple(sorted(map(fractions.Fraction, numbers)))
    outcomes.add(game24.reachable(exact))
    assert game24.reachable(exact) == _solvable(numbers), numbers
  assert outcomes == {True, False}


def test_verdicts_agree_with_brute_force_on_random_expressions():
  rng = random.Random(1)
  outcomes = set()
  for _ in range(5):
    numbers = [rng.randint(1, 13) for _ in range(4)]
    question = ' '.join(map(str, numbers))
    every = list(_expressions(numbers))
    right = [e for e in every if e[0] == 24]
    for value, text in rng.sample(every, 60) + right[:20]:
      verdict = game24_answers.check(question, f'so\n#### {text} = 24')
      assert verdict.value == value, text
      assert verdict.right == (value == 24), text
      outcomes.add(verdict.reason)
  assert outcomes == {'right', 'wrong_value', 'division_by_zero'}


@pytest.mark.parametrize(
  'question,reply,reason',
  [
    # Wrong values and wrong use of the given numbers.
    ('4 6 8 1', '4+6+8+1', 'wrong_value'),
    ('4 6 8 1', '4*6*1*1', 'reused'),
    ('4 6 8 1', '4*6*1', 'left_out'),
    ('4 6 8 1', '46-8-1', 'joined'),
    ('4 6 8 1', '8*(4-1)*6*0', 'not_given'),
    ('4 6 8 1', '4*6', 'left_out'),
    # Exact fractions and unsupported notation.
    ('3 3 8 8', '8/(3-8/3)', 'right'),
    ('3 3 8 8', '8/(3-8/3) = 24', 'right'),
    ('3 3 8 8', '\\boxed{8/(3-8/3)}', 'right'),
    ('3 3 8 8', '8 \u00f7 (3 \u2212 8\u00f73)', 'right'),
    ('3 3 8 8', '24.0000001', 'no_parse'),
    ('3 3 8 8', '24.5', 'no_parse'),
    ('24 1 999 999', '24+1/(999*999)', 'wrong_value'),
    ('2 4 7 8', '7//2*8', 'no_parse'),
    ('2 4 7 8', '2**4+8', 'no_parse'),
    ('1 1 1 1', '1/(1-1)+1', 'division_by_zero'),
    # Equations.
    ('6 3 4 2', '(6+3)*4/2 = 24', 'wrong_value'),
    ('6 3 4 2', '24 = 24', 'joined'),
    ('6 3 4 3', '24 = 24', 'not_given'),
    ('6 3 4 2', '=24', 'no_parse'),
    ('6 3 4 2', '24', 'joined'),
    ('6 3 4 2', '(6-2+4)*3 = 24, 6*4 = 24', 'no_parse'),
    ('6 3 4 2', '(6-2+4)*3 = 25', 'no_parse'),
    ('6 3 4 2', '(6-2+4)*3 = 24 = 24', 'no_parse'),
    ('6 3 4 2', '#### (6-2+4)*3\nand so it is', 'right'),
    ('6 3 4 2', '#### 1\n####  (6-2+4)*3 ', 'right'),
    ('6 3 4 2', '####', 'empty'),
    ('6 3 4 2', ' \n', 'empty'),
    ('6 3 4 2', '(6-2+4)3', 'no_parse'),
    ('6 3 4 2', '-2+6+4*3', 'no_parse'),
    ('6 3 4 2', '(6-2+4)*3 apples', 'no_parse'),
    ('6 3 4 2', '6*4.0+3-2', 'no_parse'),
    ('6 3 4 2', '(' * 100_000, 'no_parse'),
    ('6 3 4 2', '9' * 100_000, 'no_parse'),
    ('4 6 1 1', '4*6*1*1' + ' ' * 400 + '+1', 'no_parse'),
    ('6 3 4 2', '6^' * 100 + '6', 'no_parse'),
  ],
)
def test_verdicts(question, reply, reason):
  assert game24_answers.check(question, reply).reason == reason


@pytest.mark.parametrize(
  'code',
  [
    "__import__('os').system('touch X')",
    "open('X', 'w')",
    "#### __import__('os').system('touch X')",
    "\\boxed{open('X', 'w').write('24')}",
    'exec(\'open("X","w")\')',
    "4*6 if open('X', 'w') else 24",
  ],
)
def test_text_is_not_executed(code, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert game24_answers.check('4 6 1 1', code).reason == 'no_parse'
  with pytest.raises(tree_problem.Fault):
    GAME.apply(GAME.root(_puzzle('4 6 1 1')), code)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  'thought,kind',
  [
    ('', 'empty'),
    (' \n', 'empty'),
    ('I think 4 * 6', 'no_parse'),
    ('4*6=24', 'no_parse'),
    ('4 * 6 = 24 left 1 1 24\n1 * 1 = 1', 'no_parse'),
    ('4 ** 6 = 24', 'no_parse'),
    ('4 // 1 = 4', 'no_parse'),
    ('4 * 6 = 24.0', 'no_parse'),
    ('4 * 6 = 24 left 1 1 x', 'no_parse'),
    ('4 * 6 = 24' + ' left 1' * 1000, 'no_parse'),
    ('4 * 6 = ' + '9' * 50_000, 'no_parse'),
    ('7 * 6 = 42', 'not_left'),
    ('4 + 4 = 8', 'not_left'),
    ('46 - 1 = 45', 'not_left'),
    ('1 / 0 = 1', 'not_left'),
    ('1 + 1/0 = 1', 'division_by_zero'),
    ('4 * 6 = 25', 'wrong_result'),
    ('4 / 6 = 0', 'wrong_result'),
    ('4 * 6 = 24 left 1 24', 'wrong_left'),
    ('4 * 6 = 24 left 1 1 1 24', 'wrong_left'),
  ],
)
def test_invalid_thoughts_have_a_kind(thought, kind):
  with pytest.raises(tree_problem.Fault) as e:
    GAME.apply(GAME.root(_puzzle('4 6 1 1')), thought)
  assert e.value.kind == kind


def test_division_by_a_computed_zero_is_refused():
  state = _after('4 6 1 1', '1 - 1 = 0')
  assert not any(' / 0 ' in thought for thought in GAME.propose(state))
  with pytest.raises(tree_problem.Fault) as e:
    GAME.apply(state, '4 / 0 = 4')
  assert e.value.kind == 'division_by_zero'


def test_paths_end_with_a_single_number():
  """Tests that [24] ends a path, but not 24 with other numbers left."""
  state = _after('1 1 4 6', '4 * 6 = 24')
  assert not GAME.is_terminal(state) and not GAME.is_solution(state)
  state = _after('3 3 8 8', '8 / 3 = 8/3', '3 - 8/3 = 1/3', '8 / 1/3 = 24')
  assert GAME.is_terminal(state) and GAME.is_solution(state)
  assert GAME.targets(state) == (
    '8 / 3 = 8/3 left 3 8 8/3\n3 - 8/3 = 1/3 left 8 1/3\n'
    '8 / 1/3 = 24 left 24\n#### 8/(3-8/3)'
  )
  with pytest.raises(tree_problem.Fault):
    GAME.apply(state, '24 * 1 = 24')
  wrong = _after('1 1 1 1', '1 + 1 = 2', '1 + 1 = 2', '2 + 2 = 4')
  assert GAME.is_terminal(wrong) and not GAME.is_solution(wrong)


def test_equal_multisets_are_one_state():
  one = _after('1 5 1 7', '1 * 5 = 5 left 1 7 5')
  other = _after('1 5 1 7', '1 * 7 = 7 left 5 1 7')
  assert GAME.key(one) == GAME.key(other)
  assert GAME.key(one) != GAME.key(_after('1 5 1 7', '1 + 7 = 8'))


def test_expressions_equal_the_result_of_their_steps():
  rng = random.Random(2)
  for _ in range(200):
    numbers = rng.choices(range(1, 14), k=4)
    state = GAME.root(_puzzle(' '.join(map(str, numbers))))
    while not GAME.is_terminal(state):
      state = GAME.apply(state, rng.choice(GAME.propose(state)))
    verdict = game24_answers.check(state.instance.question, GAME.answer(state))
    assert verdict.value == state.position[0].value


def test_examples_in_prompts_are_correct():
  examples = GAME.examples(GAME.max_examples)
  for example in examples.split('\n\n')[1:-1]:
    first, _, reply = example.partition('\n')
    question = first.removeprefix(f'Make {game24.GOAL}: ')
    assert game24_answers.check(question, reply).right


@pytest.mark.parametrize('line', ['4 4', '4 4 x 1', '', '4  4 6 1', '0 1 2 3'])
def test_a_wrong_file_is_refused_with_its_line(line, tmp_path):
  path = tmp_path / 'p.csv'
  path.write_text(f'Rank,Puzzles\n1,1 1 4 6\n2,{line}\n')
  if line == '4 4':
    assert len(game24.read(str(path))) == 2
    return
  with pytest.raises(errors.ConfigError, match='p.csv:3: Puzzles'):
    game24.read(str(path))
  with pytest.raises(errors.ConfigError, match='no file'):
    game24.read(str(tmp_path / 'none.csv'))


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-16'])
def test_a_file_in_another_encoding_is_refused_with_its_line(
  encoding, tmp_path
):
  path = tmp_path / 'p.csv'
  path.write_bytes('Rank,Puzzles\n1,caf\u00e9\n'.encode(encoding))
  line = {'latin-1': 2, 'utf-16': 1}[encoding]
  with pytest.raises(errors.ConfigError, match=f'p.csv:{line}: .*in UTF-8'):
    game24.read(str(path))
