"""The fields of thoughts, with their defaults, units and legal values.

What `reasoning` and `search` of a config hold; base.py has all the others.
"""

import ml_collections


def chains() -> ml_collections.ConfigDict:
  """For --mode=reason: docs/reasoning.md."""
  c = ml_collections.ConfigDict()
  # JSON lines of {"question", "answer", "id"}; '': data.mixture, data.split
  c.problems = ''
  c.count = -1  # solve the first so many, > 0; -1: all
  # what is asked about a line of the file, with {question} in its place
  c.form = 'Question: {question}\nAnswer:\n'
  c.model = 'student'  # who solves them: student | teacher
  # few_shot: worked examples in front, as text | chat: turns of data.template
  c.style = 'few_shot'
  # worked examples, >= 0: the first problems that have worked answers, which
  # are not solved themselves
  c.shots = 4
  # what a chat begins with
  c.instruction = (
    'Solve the problem step by step. End with a line of #### and the answer.'
  )
  c.samples = 8  # solutions of each problem, > 0
  c.max_new_tokens = 256  # of a solution, > 0; a longer one is cut
  c.temperature = 0.7  # these five: see kd/sampling/requests.py
  c.top_k = 0
  c.top_p = 1.0
  c.min_p = 0.0
  c.repetition_penalty = 1.0
  c.together = 64  # problems solved between two writes, > 0
  c.folder = ''  # what is written; '': <workdir>/traces
  # solutions that are kept: correct (answer as the reference) | voted (as most
  # of the problem's solutions) | both | any (that answer)
  c.keep = 'correct'
  c.votes = 0.5  # least share of answers that `voted` needs, [0, 1]
  c.steps = 'right'  # right: no wrong statement in them | any
  c.fewest_steps = 1  # right statements in them, >= 0
  c.per_problem = 4  # most kept of one problem, >= 0; 0: no limit
  # most kept with one number of right statements, >= 0; 0: no limit
  c.per_steps = 0
  return c


def trees() -> ml_collections.ConfigDict:
  """For --mode=search: docs/trees.md."""
  c = ml_collections.ConfigDict()
  c.problem = 'game24'  # game24 | gsm8k
  c.data = ''  # its file; '': the one in $KD_DATA_DIR
  c.first = 0  # the first instance of the file, from 0
  c.count = -1  # how many, > 0; -1: all that follow
  c.folder = ''  # where trees are written; '': <workdir>/search
  c.method = 'beam'  # beam | depth_first | best_first
  # states: kept a level (beam), kept of each state's thoughts (depth_first),
  # expanded at a time (best_first), > 0
  c.breadth = 5
  c.depth = 0  # most thoughts of a path; 0: as many as the problem needs
  c.proposals = 'sampled'  # sampled | enumerated (all that are legal)
  c.samples = 8  # thoughts sampled in each state, > 0
  # worked examples before what is asked, for models that were not trained on
  # paths, >= 0
  c.shots = 0
  # what a state is worth: exact (the problem's verifier) | likelihood (the
  # model's probability of a thought, geometric mean over the path) | value (its
  # word for it) | vote (for the best of several)
  c.evaluator = 'exact'
  c.votes = 3  # judgements of a state, or votes, > 0
  c.prune = 0.0  # states of at most this value go no further, [0, 1)
  c.deduplicate = True  # of equal states one goes on
  c.solutions = 1  # a tree ends when it has so many; 0: with all
  c.max_calls = 0  # completions for a tree at most; 0: any number
  c.max_tokens = 0  # tokens read and generated for a tree; 0: any number
  c.max_nodes = 10_000  # of a tree; 0: any number
  c.max_new_tokens = 64  # of a thought, judgement or vote, > 0
  c.temperature = 0.7  # these five: see kd/sampling/requests.py
  c.top_k = 0
  c.top_p = 1.0
  c.min_p = 0.0
  c.repetition_penalty = 1.0
  c.seed = 0  # of what is sampled, >= 0
  c.together = 64  # trees that grow at one time, > 0
  c.draw = 8  # the first so many trees get a picture
  # bad thoughts that a path's rationale tells of before each good one, >= 0
  c.contrast = 0
  return c
