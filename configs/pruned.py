"""Prunes half of the quickstart's teacher by importance, then distills.

  python -m kd --config=configs/pruned.py --workdir=/tmp/kd-pruned --mode=prune
  python -m kd --config=configs/pruned.py --workdir=/tmp/kd-pruned-student \
      --config.student.prune.scores=/tmp/kd-pruned/prune/scores.json

The first command scores the teacher's parts on training rows and writes the
pruned model. The second trains it. docs/pruning.md explains both, and how to
prune the result again.
"""

from kd.configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.student.variant = ''
  c.student.init = 'teacher'
  c.student.prune.mlp_dim = 192
  c.student.prune.num_heads = 2
  c.student.prune.layers = 5
  c.optimizer.lr.peak = 1e-3
  c.optimizer.lr.final = 1e-5
  return c
