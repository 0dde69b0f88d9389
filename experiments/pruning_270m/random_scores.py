"""Writes importance scores that say nothing, of the same model.

  python -m experiments.pruning_270m.random_scores SCORES SEED FILE

SCORES is the scores.json of --mode=prune. Layers, and channels and heads within
their layer, exchange their scores at random.
"""

import dataclasses
import sys

import numpy as np

from kd.pruning import scores as scores_lib


def shuffled(scores: scores_lib.Scores, seed: int) -> scores_lib.Scores:
  """Returns the scores in a random order within each layer."""
  rng = np.random.default_rng(seed)
  within = {
    name: rng.permuted(getattr(scores, name), axis=1)
    for name in ('channels', 'heads', 'attention_width', 'mlp_width')
  }
  return dataclasses.replace(
    scores,
    layers=rng.permutation(scores.layers),
    # No two heads are more alike than others.
    similarity=np.zeros_like(scores.similarity),
    facts={'shuffled_with_seed': seed},
    **within,
  )


if __name__ == '__main__':
  source, number, target = sys.argv[1:]
  read = scores_lib.read(source, 'SCORES')
  scores_lib.write(target, shuffled(read, int(number)))
