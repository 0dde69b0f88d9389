"""Searches one tree, as a generator that yields sampling requests.

After Tree of Thoughts (arXiv 2305.10601): the model proposes thoughts, the new
states are evaluated, and the best are expanded. A search yields requests and
receives their samples, so that one sampler call can serve many trees. It uses
no random numbers and no clock: the same samples give the same tree.
"""

from collections.abc import Callable, Generator
import dataclasses
import math

from kd.reasoning.trees import tree as tree_lib
from kd.reasoning.trees import tree_methods
from kd.reasoning.trees import tree_problem
from kd.sampling import requests

# Evaluators that call the model.
MODEL_EVALUATORS = ('value', 'vote')
EVALUATORS = ('exact', 'likelihood', *MODEL_EVALUATORS)
PROPOSALS = ('sampled', 'enumerated')


@dataclasses.dataclass(frozen=True)
class SearchSettings:
  """Settings of a search; see the section `search` in docs/config.md."""

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


# Maps a question and the beginning of an answer to the ids of a prompt.
Encode = Callable[[str, str], tuple[int, ...]]
SearchGenerator = Generator[
  list[requests.Request], list[list[requests.Sample]], tree_lib.Tree
]


def search(
  problem: tree_problem.TreeProblem,
  instance: tree_problem.Instance,
  settings: SearchSettings,
  encode: Encode | None,
) -> SearchGenerator:
  """Searches one instance.

  Args:
    problem: the problem.
    instance: the instance to solve.
    settings: settings of the search.
    encode: encodes prompts; None if the search calls no model.

  Yields:
    Lists of one or more independent requests; the caller sends back their
    samples in order.

  Returns:
    The tree.
  """
  return _Search(problem, instance, settings, encode).run()


class _Search:
  """The state of one search."""

  def __init__(self, problem, instance, settings, encode):
    self._problem, self._settings, self._encode = problem, settings, encode
    self._tree = tree_lib.Tree(instance.id, instance.question, instance.answer)
    self._states = {}  # State by node id; invalid thoughts have none.
    self._node_by_key = {}  # Node id by state key.
    self._instance = instance
    self._depth = min(
      d for d in (problem.depth(instance), settings.depth, math.inf) if d
    )
    self._method = tree_methods.METHODS[settings.method](settings.breadth)

  def run(self) -> SearchGenerator:
    """Runs the search; see `search`."""
    root = tree_lib.Node(0, -1, 0, '', value=1.0)
    self._tree.nodes.append(root)
    self._states[0] = self._problem.root(self._instance)
    self._node_by_key[self._problem.key(self._states[0])] = 0
    self._method.add([root])
    while nodes := self._method.next():
      children = yield from self._propose(nodes)
      candidates = [node for node in children if self._may_expand(node)]
      enough = 0 < self._settings.solutions <= len(self._tree.solutions)
      # Values are used as training data too, but are not worth model calls
      # once the search ends.
      calls_model = self._settings.evaluator in MODEL_EVALUATORS
      if candidates and not (self._tree.stopped or (enough and calls_model)):
        yield from self._evaluate(candidates)
      for node in candidates:
        if node.value is not None and node.value <= self._settings.prune:
          node.status = 'pruned'
      if self._tree.stopped or enough:
        break
      self._method.add([node for node in candidates if node.status == 'open'])
    return self._tree

  def _propose(self, nodes):
    """Expands states; returns the new nodes with valid thoughts."""
    if self._settings.proposals == 'enumerated':
      texts = [
        [(text, None) for text in self._problem.propose(self._states[node.id])]
        for node in nodes
      ]
    else:
      texts = yield from self._sample_thoughts(nodes)
    children = []
    # `texts` is shorter than `nodes` if a budget was exhausted.
    for node, proposed in zip(nodes, texts, strict=False):
      node.status = 'expanded'
      children += self._add_children(node, proposed)
    return children

  def _sample_thoughts(self, nodes):
    """Returns text and log-probability of each valid sample, by node."""
    examples = self._problem.examples(self._settings.shots)
    inputs = examples + self._problem.inputs(self._instance)
    prompts = [
      (node.id, inputs, tree_problem.text_so_far(self._states[node.id]))
      for node in nodes
    ]
    answers = yield from self._sample(
      'propose', prompts, self._settings.samples
    )
    return [
      [(s.text, sum(s.logprobs)) for s in samples if self._usable(s, True)]
      for samples in answers
    ]

  def _usable(self, sample, whole):
    """Returns whether a sample has a usable text; counts a fault if not."""
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
    """Adds distinct thoughts of a state as nodes; returns the valid ones."""
    node_by_thought = {}
    for text, logprob in proposed:
      try:
        state = self._problem.apply(self._states[parent.id], text)
        key, fault = state.thoughts[-1], ''
      except tree_problem.Fault as e:
        state, key, fault = None, text, e.kind
        self._tree.count_fault(fault)
      if key in node_by_thought:
        node_by_thought[key].count += 1
        continue
      if 0 < self._settings.max_nodes <= len(self._tree.nodes):
        self._tree.stopped = 'nodes'
        break
      node = tree_lib.Node(
        len(self._tree.nodes),
        parent.id,
        parent.depth + 1,
        key[: tree_problem.MAX_CHARS],
        logprob=logprob,
        fault=fault,
        status='fault' if fault else 'open',
      )
      node_by_thought[key] = node
      self._tree.nodes.append(node)
      if state is not None:
        self._states[node.id] = state
    return [node for node in node_by_thought.values() if not node.fault]

  def _may_expand(self, node):
    """Returns whether a new state may be expanded; sets its status if not."""
    state = self._states[node.id]
    if self._problem.is_terminal(state):
      is_right = self._problem.is_solution(state)
      node.status = 'solution' if is_right else 'failed'
      node.value = float(is_right)
      return False
    key = self._problem.key(state)
    if self._settings.deduplicate and key in self._node_by_key:
      node.status, node.same_as = 'same', self._node_by_key[key]
      return False
    self._node_by_key[key] = node.id
    if node.depth >= self._depth:
      node.status = 'deep'
      return False
    return True

  def _evaluate(self, nodes):
    evaluators = {
      'exact': self._verify,
      'likelihood': self._score_likelihood,
      'value': self._judge_values,
      'vote': self._judge_votes,
    }
    yield from evaluators[self._settings.evaluator](nodes)

  def _verify(self, nodes):
    for node in nodes:
      node.value = self._problem.verify(self._states[node.id])
    yield from ()

  def _score_likelihood(self, nodes):
    """Sets values to the geometric mean probability of the path's thoughts."""
    for node in nodes:
      logprobs = [step.logprob for step in self._tree.path(node)]
      node.value = math.exp(sum(logprobs) / len(logprobs))
    yield from ()

  def _judge_values(self, nodes):
    """Sets values to the mean judgment; 'likely' if none can be parsed."""
    prompts = [
      (node.id, self._problem.value_inputs(self._states[node.id]), '')
      for node in nodes
    ]
    answers = yield from self._sample('value', prompts, self._settings.votes)
    for node, samples in zip(nodes, answers, strict=False):
      values = self._parse(samples, tree_problem.read_value)
      unknown = tree_problem.VALUES['likely']
      node.value = sum(values) / len(values) if values else unknown

  def _judge_votes(self, nodes):
    """Sets values to fractions of votes; uniform if none can be parsed."""
    states = [self._states[node.id] for node in nodes]
    prompt = (nodes[0].id, self._problem.vote_inputs(states), '')
    answers = yield from self._sample('vote', [prompt], self._settings.votes)
    if not answers:
      return
    (samples,) = answers
    read = lambda text: tree_problem.read_vote(text, len(nodes))
    votes = self._parse(samples, read)
    for i, node in enumerate(nodes):
      node.value = votes.count(i) / len(votes) if votes else 1 / len(nodes)

  def _parse(self, samples, parse):
    """Returns the parsed samples; counts those that cannot be parsed."""
    parsed = []
    for sample in samples:
      if not self._usable(sample, False):
        continue
      try:
        parsed.append(parse(sample.text))
      except tree_problem.Fault as e:
        self._tree.count_fault(e.kind)
    return parsed

  def _sample(self, purpose, prompts, samples):
    """Samples all prompts, or only the first ones if a budget is exhausted.

    Requests reserve their maximum cost. Samples often cost less, so the rest is
    requested again until the budget does not allow another sample.
    """
    answers = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    while waiting:
      batch = {}
      for index in waiting:
        node, inputs, so_far = prompts[index]
        ids = self._encode(inputs, so_far)
        missing = samples - len(answers[index])
        count = self._samples_in_budget(batch.values(), ids, missing)
        if count:
          names = (self._instance.id, node, purpose, len(answers[index]))
          seed = tree_lib.seed(self._settings.seed, *names)
          batch[index] = requests.Request(ids, seed, count)
        if count < missing:
          break
      if not batch:
        break
      sampled = yield list(batch.values())
      self._charge(batch.values(), sampled)
      for index, new_samples in zip(batch, sampled, strict=True):
        answers[index] += new_samples
      waiting = [i for i in waiting if len(answers[i]) < samples]
      if not waiting:
        self._tree.stopped = ''
    return [each for each in answers if each]

  def _samples_in_budget(self, batch, ids, samples):
    """Returns the number of maximum-length samples that the budgets allow."""
    spent, max_tokens = self._tree.spent, self._settings.max_new_tokens
    limits = {}
    if self._settings.max_calls:
      reserved = sum(request.samples for request in batch)
      limits['calls'] = self._settings.max_calls - spent.calls - reserved
    if self._settings.max_tokens:
      reserved = sum(len(r.ids) + r.samples * max_tokens for r in batch)
      left = self._settings.max_tokens - spent.tokens - reserved - len(ids)
      limits['tokens'] = left // max_tokens
    for name, limit in limits.items():
      if limit < samples:
        samples = max(limit, 0)
        self._tree.stopped = name
    return samples

  def _charge(self, requests_, answers):
    """Adds the cost of samples to the tree."""
    spent = self._tree.spent
    for request, samples in zip(requests_, answers, strict=True):
      spent.calls += len(samples)
      if any(sample.finish != 'too_long' for sample in samples):
        spent.prompt_tokens += len(request.ids)
      for sample in samples:
        # The stop id was generated as well.
        count = len(sample.ids) + (sample.finish == 'stop')
        spent.new_tokens += min(count, self._settings.max_new_tokens)
