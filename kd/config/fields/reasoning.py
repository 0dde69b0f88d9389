"""Fields of chains of thought (`reasoning`) and trees of thought (`search`)."""

from kd.config import legal
from kd.config import places
from kd.config import schema
from kd.config.fields import sampling

F = schema.Field
_FRACTION = legal.Number(at_least=0, at_most=1)

REASONING = schema.Section(
  'Chains of thought (`--mode=reason`, docs/reasoning.md).',
  {
    'problems': F(
      '',
      places.Path('file', optional=True),
      'JSON lines of {"question", "answer", "id"}; '
      "'': data.mixture and data.split",
    ),
    'count': F(-1, legal.ALL_OR_COUNT, 'solve the first n problems; -1: all'),
    'question_format': F(
      'Question: {question}\nAnswer:\n',
      legal.Containing('{question}'),
      'prompt of a problem from a file',
      formerly='form',
    ),
    'model': F(
      'student',
      legal.one_of('student', 'teacher', 'server'),
      'model that solves the problems; server: the model of `teacher.server`',
    ),
    'style': F(
      'few_shot',
      legal.one_of('few_shot', 'chat'),
      'few_shot: worked examples as text; chat: as turns of data.template',
    ),
    'shots': F(
      4,
      legal.Integer(0, 1000),
      'worked examples, taken from the first problems, which are not solved',
    ),
    'instruction': F(
      'Solve the problem step by step. End with a line of #### and the answer.',
      legal.TEXT,
      'text at the beginning of a chat',
    ),
    'samples': F(8, legal.Integer(1, 2**16), 'solutions per problem'),
    **sampling.sampling(temperature=0.7, max_new_tokens=256),
    'concurrency': F(
      64,
      legal.Integer(1, 2**20),
      'problems solved per write',
      formerly='together',
    ),
    'folder': F(
      '',
      places.Path('folder', optional=True),
      "folder for solutions; '': <workdir>/traces",
    ),
    'answer': F(
      'number',
      legal.one_of('number', 'text'),
      'number: the last number of a reply is its answer, and its statements '
      'are checked; text: the whole reply is its answer',
    ),
    'keep': F(
      'correct',
      legal.one_of('correct', 'voted', 'both', 'any'),
      'solutions to keep: correct (with the reference answer), voted (with '
      'the answer of most samples), both, any (with an answer)',
    ),
    'min_vote_fraction': F(
      0.5, _FRACTION, 'fraction of answers that `voted` needs', formerly='votes'
    ),
    'steps': F(
      'right',
      legal.one_of('right', 'any'),
      'right: keep only solutions without wrong statements',
    ),
    'min_steps': F(
      1,
      legal.COUNT,
      'minimum number of right statements of a solution',
      formerly='fewest_steps',
    ),
    'max_per_problem': F(
      4,
      legal.COUNT,
      'solutions kept per problem; 0: no limit',
      formerly='per_problem',
    ),
    'max_per_step_count': F(
      0,
      legal.COUNT,
      'solutions kept with the same number of statements; 0: no limit',
      formerly='per_steps',
    ),
  },
)

SEARCH = schema.Section(
  'Trees of thought (`--mode=search`, docs/trees.md).',
  {
    'problem': F('game24', legal.one_of('game24', 'gsm8k'), 'problem to solve'),
    'data': F(
      '',
      places.Path('file', optional=True),
      "file of its instances; '': the file in $KD_DATA_DIR",
    ),
    'first': F(0, legal.COUNT, 'first instance of the file, from 0'),
    'count': F(-1, legal.ALL_OR_COUNT, 'instances; -1: all that follow'),
    'folder': F(
      '',
      places.Path('folder', optional=True),
      "folder for trees; '': <workdir>/search",
    ),
    'method': F(
      'beam',
      legal.one_of('beam', 'depth_first', 'best_first'),
      'order in which states are expanded',
    ),
    'breadth': F(
      5,
      legal.Integer(1, 2**20),
      'states kept per level (beam), thoughts kept per state (depth_first), '
      'states expanded at a time (best_first)',
    ),
    'depth': F(
      0,
      legal.COUNT,
      'maximum number of thoughts in a path; 0: as the problem needs',
    ),
    'proposals': F(
      'sampled',
      legal.one_of('sampled', 'enumerated'),
      'thoughts: sampled from the model, or all legal ones',
    ),
    'samples': F(8, legal.Integer(1, 2**16), 'thoughts sampled per state'),
    'shots': F(
      0, legal.COUNT, 'worked examples in the prompt, for untrained models'
    ),
    'evaluator': F(
      'exact',
      legal.one_of('exact', 'likelihood', 'value', 'vote'),
      "a state's value: exact (the problem's verifier), likelihood (geometric "
      "mean of the thoughts' probabilities), value (the model's judgment), "
      "vote (the model's votes for the best of several)",
    ),
    'votes': F(3, legal.Integer(1, 2**16), 'judgments per state, or votes'),
    'prune': F(
      0.0,
      legal.Number(at_least=0, below=1),
      'states with this value or less are not expanded',
    ),
    'deduplicate': F(
      True, legal.BOOLEAN, 'expand only one of several equal states'
    ),
    'solutions': F(
      1,
      legal.COUNT,
      'number of solutions at which a tree ends; 0: search the whole tree',
    ),
    'max_calls': F(0, legal.COUNT, 'completions per tree; 0: no limit'),
    'max_tokens': F(
      0, legal.COUNT, 'tokens read and generated per tree; 0: no limit'
    ),
    'max_nodes': F(10_000, legal.COUNT, 'nodes per tree; 0: no limit'),
    **sampling.sampling(temperature=0.7, max_new_tokens=64),
    'seed': F(0, legal.SEED, 'seed of the sampling'),
    'concurrency': F(
      64,
      legal.Integer(1, 2**20),
      'trees searched at a time',
      formerly='together',
    ),
    'num_pictures': F(
      8,
      legal.COUNT,
      'number of trees, the first ones, of which a picture is drawn',
      formerly='draw',
    ),
    'contrast': F(
      0,
      legal.COUNT,
      "number of rejected thoughts that a path's rationale mentions before "
      'each good one',
    ),
  },
)
