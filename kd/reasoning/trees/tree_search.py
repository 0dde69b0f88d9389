"""The search of one tree, as a generator of what it asks the model.

After Tree of Thoughts (arXiv 2305.10601): thoughts are proposed in states, the
new states are evaluated, the best are expanded. A search yields requests
and is sent their samples, so that one sampler call can answer many trees; it
draws nothing and asks no clock, so that the same answers give the same tree.
"""

from collections.abc import Callable, Generator
import dataclasses
import math

from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_methods
from kd.reasoning.trees import tree_problem
from kd.sampling import requests

# Evaluators that ask the model, and all of them.
ASKED = ('value', 'vote')
EVALUATORS = ('exact', 'likelihood', *ASKED)
PROPOSALS = ('sampled', 'enumerated')


@dataclasses.dataclass(frozen=True)
class SearchSettings:
  """How trees are searched; fields as in kd/config/base.py's `search`."""

  method: str
  proposals: str
  samples: int
  shots: int
  evaluator: str
  votes: int
  breadth: int
  depth: int
  prune: float
  deduplicate: bool
  solutions: int
  max_calls: int
  max_tokens: int
  max_nodes: int
  max_new_tokens: int
  seed: int


# (what a model is asked, what it has written of the answer) to a prompt's ids.
Encode = Callable[[str, str], tuple[int, ...]]
Asked = Generator[
  list[requests.Request], list[list[requests.Sample]], tree_lib.Tree
]


def search(
  problem: tree_problem.TreeProblem,
  instance: tree_problem.Instance,
  plan: SearchSettings,
  encode: Encode | None,
) -> Asked:
  """Searches one instance.

  Args:
    problem: its kind.
    instance: what is to be solved.
    plan: how.
    encode: makes prompts; None where the plan asks no model.

  Yields:
    Requests, all of the same moment, one or more: their samples are to be sent
    back in their order.

  Returns:
    The tree.
  """
  return _Search(problem, instance, plan, encode).run()


class _Search:
  """The state of one search."""

  def __init__(self, problem, instance, plan, encode):
    self._problem, self._plan, self._encode = problem, plan, encode
    self._tree = tree_lib.Tree(instance.id, instance.question, instance.answer)
    self._states = {}  # by node id; states of faults and equal ones are not
    self._seen = {}  # node id by state key
    self._instance = instance
    self._depth = min(
      d for d in (problem.depth(instance), plan.depth, math.inf) if d
    )
    self._method = tree_methods.METHODS[plan.method](plan.breadth)

  def run(self) -> Asked:
    root = tree_lib.Node(0, -1, 0, '', value=1.0)
    self._tree.nodes.append(root)
    self._states[0] = self._problem.root(self._instance)
    self._seen[self._problem.key(self._states[0])] = 0
    self._method.add([root])
    while nodes := self._method.next():
      made = yield from self._propose(nodes)
      wait = [node for node in made if self._goes_on(node)]
      enough = 0 < self._plan.solutions <= len(self._tree.solutions)
      # Data can be made of what is known for nothing; calls are not wasted.
      asks = self._plan.evaluator in ASKED
      if wait and not (self._tree.stopped or (enough and asks)):
        yield from self._evaluate(wait)
      for node in wait:
        if node.value is not None and node.value <= self._plan.prune:
          node.status = 'pruned'
      if self._tree.stopped or enough:
        break
      self._method.add([node for node in wait if node.status == 'open'])
    return self._tree

  def _propose(self, nodes):
    """Expands states; returns the new nodes that are no faults."""
    if self._plan.proposals == 'enumerated':
      texts = [
        [(text, None) for text in self._problem.propose(self._states[node.id])]
        for node in nodes
      ]
    else:
      texts = yield from self._sample_thoughts(nodes)
    made = []
    # A budget may end before the last of them.
    for node, proposed in zip(nodes, texts, strict=False):
      node.status = 'expanded'
      made += self._add_children(node, proposed)
    return made

  def _sample_thoughts(self, nodes):
    """By node: (text, log-probability) of each sample, faults counted."""
    examples = self._problem.examples(self._plan.shots)
    inputs = examples + self._problem.inputs(self._instance)
    prompts = [
      (node.id, inputs, tree_problem.written(self._states[node.id]))
      for node in nodes
    ]
    answers = yield from self._ask('propose', prompts, self._plan.samples)
    return [
      [(s.text, sum(s.logprobs)) for s in samples if self._usable(s, True)]
      for samples in answers
    ]

  def _usable(self, sample, whole):
    """Returns whether a sample holds a text; counts what is wrong if not."""
    kind = ''
    if sample.finish == 'too_long':
      kind = 'too_long'
    elif not sample.text.strip():
      kind = 'empty'
    elif whole and sample.finish == 'length':
      kind = 'cut'
    if kind:
      self._tree.count_fault(kind)
    return not kind

  def _add_children(self, parent, proposed):
    """The new nodes of one state; thoughts that are equal become one."""
    found = {}
    for text, logprob in proposed:
      try:
        state = self._problem.apply(self._states[parent.id], text)
        key, fault = state.thoughts[-1], ''
      except tree_problem.Fault as e:
        state, key, fault = None, text, e.kind
        self._tree.count_fault(fault)
      if key in found:
        found[key].count += 1
        continue
      if 0 < self._plan.max_nodes <= len(self._tree.nodes):
        self._tree.stopped = 'nodes'
        break
      node = tree_lib.Node(
        len(self._tree.nodes),
        parent.id,
        parent.depth + 1,
        key[: tree_problem.LONGEST],
        logprob=logprob,
        fault=fault,
        status='fault' if fault else 'open',
      )
      found[key] = node
      self._tree.nodes.append(node)
      if state is not None:
        self._states[node.id] = state
    return [node for node in found.values() if not node.fault]

  def _goes_on(self, node):
    """Whether a new state may be expanded; gives the others their status."""
    state = self._states[node.id]
    if self._problem.is_terminal(state):
      right = self._problem.is_solution(state)
      node.status = 'solution' if right else 'failed'
      node.value = float(right)
      return False
    key = self._problem.key(state)
    if self._plan.deduplicate and key in self._seen:
      node.status, node.same_as = 'same', self._seen[key]
      return False
    self._seen[key] = node.id
    if node.depth >= self._depth:
      node.status = 'deep'
      return False
    return True

  def _evaluate(self, nodes):
    evaluators = {
      'exact': self._verify,
      'likelihood': self._weigh,
      'value': self._ask_values,
      'vote': self._ask_votes,
    }
    yield from evaluators[self._plan.evaluator](nodes)

  def _verify(self, nodes):
    for node in nodes:
      node.value = self._problem.verify(self._states[node.id])
    yield from ()

  def _weigh(self, nodes):
    """The model's probability of a thought, geometric mean over the path."""
    for node in nodes:
      logprobs = [step.logprob for step in self._tree.path(node)]
      node.value = math.exp(sum(logprobs) / len(logprobs))
    yield from ()

  def _ask_values(self, nodes):
    """The mean judgement; that of a state that no one can judge is 'likely'."""
    prompts = [
      (node.id, self._problem.value_inputs(self._states[node.id]), '')
      for node in nodes
    ]
    answers = yield from self._ask('value', prompts, self._plan.votes)
    for node, samples in zip(nodes, answers, strict=False):
      values = self._read(samples, tree_problem.read_value)
      unknown = tree_problem.VALUES['likely']
      node.value = sum(values) / len(values) if values else unknown

  def _ask_votes(self, nodes):
    """Computes fractions of votes; equal ones where none can be read."""
    states = [self._states[node.id] for node in nodes]
    prompt = (nodes[0].id, self._problem.vote_inputs(states), '')
    answers = yield from self._ask('vote', [prompt], self._plan.votes)
    if not answers:
      return
    (samples,) = answers
    read = lambda text: tree_problem.read_vote(text, len(nodes))
    votes = self._read(samples, read)
    for i, node in enumerate(nodes):
      node.value = votes.count(i) / len(votes) if votes else 1 / len(nodes)

  def _read(self, samples, read):
    found = []
    for sample in samples:
      if not self._usable(sample, False):
        continue
      try:
        found.append(read(sample.text))
      except tree_problem.Fault as e:
        self._tree.count_fault(e.kind)
    return found

  def _ask(self, purpose, prompts, samples):
    """Samples by prompt; where a budget ends, of the first prompts alone.

    Answers cost less than they might have: near a budget's end what is left is
    asked for again, until no answer could be paid for.
    """
    answers = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    while waiting:
      asked = {}
      for index in waiting:
        node, inputs, so_far = prompts[index]
        ids = self._encode(inputs, so_far)
        wanted = samples - len(answers[index])
        count = self._affordable(asked.values(), ids, wanted)
        if count:
          names = (self._instance.id, node, purpose, len(answers[index]))
          seed = tree_lib.seed(self._plan.seed, *names)
          asked[index] = requests.Request(ids, seed, count)
        if count < wanted:
          break
      if not asked:
        break
      found = yield list(asked.values())
      self._pay(asked.values(), found)
      for index, more in zip(asked, found, strict=True):
        answers[index] += more
      waiting = [i for i in waiting if len(answers[i]) < samples]
      if not waiting:
        self._tree.stopped = ''
    return [each for each in answers if each]

  def _affordable(self, asked, ids, samples):
    """How many samples fit the budgets, were each as long as it may be."""
    spent, longest = self._tree.spent, self._plan.max_new_tokens
    limits = {}
    if self._plan.max_calls:
      reserved = sum(request.samples for request in asked)
      limits['calls'] = self._plan.max_calls - spent.calls - reserved
    if self._plan.max_tokens:
      reserved = sum(len(r.ids) + r.samples * longest for r in asked)
      left = self._plan.max_tokens - spent.tokens - reserved - len(ids)
      limits['tokens'] = left // longest
    for name, limit in limits.items():
      if limit < samples:
        samples = max(limit, 0)
        self._tree.stopped = name
    return samples

  def _pay(self, asked, answers):
    spent = self._tree.spent
    for request, samples in zip(asked, answers, strict=True):
      spent.calls += len(samples)
      if any(sample.finish != 'too_long' for sample in samples):
        spent.prompt_tokens += len(request.ids)
      for sample in samples:
        # What stops an answer was generated too.
        count = len(sample.ids) + (sample.finish == 'stop')
        spent.new_tokens += min(count, self._plan.max_new_tokens)
