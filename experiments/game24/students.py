"""Students of experiments/game24, and the searches before and after.

With --mode=search, config_paths.py searches for the paths to learn, in all
puzzles but the hardest 100, with the exact verifier and no model. The student
of config_trace.py learns the steps of a path and the resulting expression, that
of config_answer.py only the expression. With --mode=search, config_trace.py
lets its student propose steps for the hardest 100.
"""

import ml_collections

from kd.config import base

PUZZLES = 1362  # In order of the time that people take.
HARDEST = 100


def config(kind: str) -> ml_collections.ConfigDict:
  """Returns the config of 'paths', 'trace' or 'answer'."""
  c = base.get_config()
  c.steps = 1000
  c.teacher.source = 'none'
  c.student.variant = 'nano'
  c.student.dtype = 'float32'
  c.data.module = 'kd.data.traces'
  c.data.mixture = 'traces_answer' if kind == 'answer' else 'traces_cot'
  c.data.tokenizer = 'bytes'
  c.losses = dict(ce=base.term('cross_entropy'))
  c.objective.chunk_tokens = 4096
  c.optimizer = base.adamw(
    base.schedule('warmup_cosine', peak=5e-3, warmup_steps=100, final=5e-5)
  )
  c.evaluation.batch_size = 64
  c.evaluation.sets.held_out = base.evaluation_set(examples=256)
  c.checkpoint.every = 500
  c.log.every = 20
  if kind == 'paths':
    c.search.update(
      count=PUZZLES - HARDEST,
      method='depth_first',
      breadth=100,
      proposals='enumerated',
      evaluator='exact',
      solutions=8,
    )
  else:
    c.search.update(
      first=PUZZLES - HARDEST, evaluator='likelihood', temperature=1.0
    )
  return c
