"""Tests searches with scripted replies: orders, values, budgets, faults."""

import dataclasses
import math
import random

import pytest

from kd.reasoning.trees import game24
from kd.reasoning.trees import gsm8k
from kd.reasoning.trees import tree_problem
from kd.reasoning.trees import tree_search
from kd.sampling import requests

GAME = game24.Game24()
PLAN = tree_search.SearchSettings(
  method='beam',
  proposals='sampled',
  samples=6,
  shots=0,
  evaluator='exact',
  votes=3,
  breadth=4,
  depth=0,
  prune=0.0,
  deduplicate=True,
  solutions=1,
  max_calls=0,
  max_tokens=0,
  max_nodes=0,
  max_new_tokens=60,
  seed=0,
)


def plan(**changes):
  return dataclasses.replace(PLAN, **changes)


def encode(inputs, so_far):
  return tuple((inputs + so_far).encode())


def instance(question='4 6 1 1', answer=''):
  return tree_problem.Instance('puzzle', question, answer)


def sample(text, finish='stop', logprob=-1.0):
  ids = tuple(text.encode())
  return requests.Sample(ids, (logprob,) * len(ids), text, finish)


def grow(problem, the_plan, answer, question='4 6 1 1', right=''):
  """Returns the tree, and the batches of requests.

  Args:
    problem: the problem.
    the_plan: settings of the search.
    answer: maps a prompt and a request to the samples.
    question: question of the instance.
    right: answer of the instance.
  """
  search = tree_search.search(
    problem, instance(question, right), the_plan, encode
  )
  batches, answers = [], None
  while True:
    try:
      batches.append(search.send(answers))
    except StopIteration as e:
      return e.value, batches
    answers = [answer(bytes(r.ids).decode(), r) for r in batches[-1]]
    assert all(
      len(a) == r.samples for a, r in zip(answers, batches[-1], strict=True)
    )


def _position(prompt):
  """Returns the state that a prompt of the game describes."""
  first, *lines = prompt.splitlines()
  state = GAME.root(instance(first.removeprefix('Make 24: ')))
  for line in lines:
    state = GAME.apply(state, line)
  return state


def player(prompt, request):
  """Proposes legal steps, drawn with the request's seed."""
  rng = random.Random(request.seed)
  legal = GAME.propose(_position(prompt))
  return [sample(rng.choice(legal)) for _ in range(request.samples)]


def test_enumerated_beam_search_equals_brute_force():
  for question, solvable in (('3 3 8 8', True), ('1 1 1 1', False)):
    for method in ('beam', 'depth_first', 'best_first'):
      the_plan = plan(method=method, proposals='enumerated', breadth=99)
      tree, batches = grow(GAME, the_plan, None, question)
      assert bool(tree.solutions) == solvable and not batches


def test_each_level_is_one_batch_and_keeps_the_best():
  the_plan = plan(evaluator='likelihood', solutions=0, breadth=2)

  def answer(prompt, request):
    rng = random.Random(request.seed)
    legal = GAME.propose(_position(prompt))
    return [
      sample(text, logprob=-rng.random())
      for text in rng.sample(legal, request.samples)
    ]

  tree, batches = grow(GAME, the_plan, answer)
  assert [len(batch) for batch in batches] == [1, 2, 2]
  for depth in (1, 2):
    level = [n for n in tree.nodes if n.depth == depth]
    kept = [n.value for n in level if n.status == 'expanded']
    left = [n.value for n in level if n.status == 'beyond']
    assert len(kept) == 2 and len(left) > 2 and min(kept) >= max(left)


def test_depth_first_returns_to_the_next_best():
  order = []

  def answer(prompt, request):
    order.append(prompt)
    texts = {
      'Make 24: 4 6 1 1\n': ['4 + 6 = 10', '1 - 1 = 0'],
      'Make 24: 4 6 1 1\n4 + 6 = 10 left 1 1 10\n': ['1 + 1 = 2'],
    }.get(prompt, ['no'])
    logprobs = {'4 + 6 = 10': -0.1, '1 - 1 = 0': -0.2}
    return [
      sample(t, logprob=logprobs.get(t, -1.0))
      for t in (texts * request.samples)[: request.samples]
    ]

  the_plan = plan(method='depth_first', evaluator='likelihood')
  tree, batches = grow(GAME, the_plan, answer)
  assert all(len(batch) == 1 for batch in batches)
  assert [p.count('\n') for p in order] == [1, 2, 3, 2]
  assert order[-1].endswith('1 - 1 = 0 left 4 6 0\n')
  assert not tree.solutions and not tree.stopped


def test_best_first_expands_the_best_of_all_nodes():
  tree, _ = grow(
    GAME,
    plan(method='best_first', breadth=1, evaluator='likelihood', max_calls=60),
    player,
  )
  expanded = [n for n in tree.nodes if n.status == 'expanded'][1:]
  waiting = [n for n in tree.nodes if n.status == 'open' and n.value]
  assert expanded and waiting
  assert min(n.value for n in expanded) >= max(n.value for n in waiting)
  path = tree.path(expanded[-1])
  mean = sum(n.logprob for n in path) / len(path)
  assert expanded[-1].value == math.exp(mean)


def test_equal_states_are_expanded_once_and_equal_thoughts_counted():
  texts = ['4 * 6 = 24', '6 * 4 = 24', '4 * 6 = 24 left 1 1 24'] * 2
  answer = lambda prompt, request: [sample(t) for t in texts]
  tree, _ = grow(GAME, plan(depth=1), answer)
  first, second = tree.nodes[1:]
  assert (first.count, first.status) == (4, 'deep')
  assert (second.count, second.status, second.same_as) == (2, 'same', first.id)
  tree, _ = grow(GAME, plan(depth=1, deduplicate=False), answer)
  assert [n.status for n in tree.nodes[1:]] == ['deep', 'deep']


def test_the_exact_verifier_prunes_unsolvable_states():
  tree, _ = grow(GAME, plan(solutions=0), player)
  assert tree.solutions
  for node in tree.nodes[1:]:
    lost = node.value == 0 and node.status not in ('failed', 'same')
    assert lost == (node.status == 'pruned')


def test_values_and_votes_are_parsed_from_the_model():
  def judge(prompt, request):
    if prompt.startswith('Can these'):
      sure = prompt.splitlines()[-1] == '1 1 24'
      words = ['sure', 'Impossible.', 'who knows'] if sure else ['impossible']
    elif prompt.startswith('Which'):
      number = [p for p in prompt.splitlines() if p.endswith(' 1 1 24')][0]
      words = [number.partition(':')[0], '99', 'none']
    else:
      words = ['4 * 6 = 24', '4 + 6 = 10', '6 - 4 = 2']
    return [sample(w) for w in (words * 3)[: request.samples]]

  tree, batches = grow(GAME, plan(evaluator='value', depth=2), judge)
  values = {n.thought: n.value for n in tree.nodes if n.depth == 1}
  assert list(values.values()) == [0.5, 0.0, 0.0]
  assert tree.faults['unread_value'] == 1
  assert len(batches[1]) == 3  # One batch for the level's judgments.
  tree, batches = grow(GAME, plan(evaluator='vote', depth=2), judge)
  values = {n.thought: n.value for n in tree.nodes if n.depth == 1}
  assert list(values.values()) == [1.0, 0.0, 0.0]
  assert len(batches[1]) == 1 and tree.faults['unread_vote'] == 2


def test_no_judgment_is_requested_once_a_solution_exists():
  answer = lambda prompt, request: [
    sample(text) for text in ('#### 10', '3*4=12', '5+5=10') * 2
  ]
  problem, the_plan = gsm8k.Gsm8k(), plan(evaluator='value', depth=2)
  tree, batches = grow(problem, the_plan, answer, 'Why?', '#### 10')
  assert tree.solutions and len(batches) == 1
  for node in tree.nodes[2:]:
    assert (node.status, node.value) == ('open', None)


def test_unreadable_judgments_do_not_end_a_search():
  def judge(prompt, request):
    if prompt.startswith(('Can these', 'Which')):
      return [sample('???')] * request.samples
    return player(prompt, request)

  for evaluator in ('value', 'vote'):
    tree, _ = grow(GAME, plan(evaluator=evaluator, solutions=0), judge)
    assert max(n.depth for n in tree.nodes) == 3


BAD = {
  'empty': sample(''),
  'too_long': requests.Sample((), (), '', 'too_long'),
  'cut': sample('4 * 6 = 24 left 1 1 2', 'length'),
  'no_parse': sample("__import__('os').system('touch X')"),
  'not_left': sample('6 * 6 = 36'),
  'division_by_zero': sample('1 + 1/0 = 1'),
  'wrong_result': sample('4 * 6 = 25'),
  'wrong_left': sample('4 * 6 = 24 left 4 24'),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_answers_are_counted_and_do_not_end_a_search(kind):
  def answer(prompt, request):
    return [BAD[kind], *player(prompt, request)][: request.samples]

  tree, batches = grow(GAME, plan(samples=30), answer)
  # In later states the same text may have a different fault.
  assert tree.faults[kind] and sum(tree.faults.values()) == sum(
    map(len, batches)
  )
  assert tree.solutions
  only = lambda prompt, request: [BAD[kind]] * request.samples
  tree, _ = grow(GAME, PLAN, only)
  assert tree.faults == {kind: 6}
  assert not tree.solutions and not tree.stopped


@pytest.mark.parametrize('evaluator', tree_search.EVALUATORS)
@pytest.mark.parametrize('method', ['beam', 'depth_first', 'best_first'])
def test_budgets_are_never_exceeded(method, evaluator):
  def answer(prompt, request):
    if prompt.startswith(('Can these', 'Which')):
      return [sample('likely 1')] * request.samples
    return player(prompt, request)

  for limit in (0, 1, 5, 7, 20, 47):
    tree, batches = grow(
      GAME,
      plan(
        method=method, evaluator=evaluator, solutions=0, max_calls=limit or 1000
      ),
      answer,
    )
    calls = sum(r.samples for batch in batches for r in batch)
    assert tree.spent.calls == calls
    assert calls == limit if tree.stopped else calls <= 1000
  for limit in (10, 90, 300, 600):
    the_plan = plan(
      method=method, evaluator=evaluator, solutions=0, max_tokens=limit
    )
    tree, batches = grow(GAME, the_plan, answer)
    prompts = sum(len(r.ids) for batch in batches for r in batch)
    assert tree.spent.prompt_tokens == prompts
    assert tree.spent.tokens <= limit
    # The rest of the budget is too small for one more answer.
    prompt = 200 if evaluator in ('value', 'vote') else 70
    room = prompt + the_plan.max_new_tokens
    assert not tree.stopped or tree.spent.tokens + room > limit
    assert tree.stopped or limit == 600
  tree, _ = grow(
    GAME, plan(method=method, evaluator=evaluator, max_nodes=5), answer
  )
  assert len(tree.nodes) <= 5


def test_searches_depend_on_the_seed():
  trees = [
    grow(GAME, plan(seed=seed, solutions=0), player)[0].to_json()
    for seed in (0, 0, 1)
  ]
  assert trees[0] == trees[1] != trees[2]


def test_a_solution_in_lines_of_prose():
  """Tests that GSM8K prunes wrong steps and drops repeated lines."""
  lines = {
    0: ['3*4=12 apples', '3*4=13 apples', 'Hm.', 'So 3 * 4 = 12'],
    1: ['12-2=10', '3*4=12 apples'],
    2: ['#### 10', '#### 11', '#### ,'],
  }

  def answer(prompt, request):
    text = lines[prompt.count('\n') - 2]
    return [sample(t) for t in (text * request.samples)[: request.samples]]

  problem = gsm8k.Gsm8k()
  tree, _ = grow(problem, plan(breadth=1), answer, 'Why?', '#### 10')
  (solution,) = tree.solutions
  assert [n.thought for n in tree.path(solution)] == [
    *('3*4=12 apples', '12-2=10', '#### 10')
  ]
  status = {n.thought: n.status for n in tree.nodes}
  assert status['3*4=13 apples'] == 'pruned'
  assert status['So 3 * 4 = 12'] == 'same'
  assert status['#### 11'] == status['#### ,'] == 'failed'
  assert [n.status for n in tree.nodes if n.parent > 0][:2] == [
    *('expanded', 'same')
  ]
