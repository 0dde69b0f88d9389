"""Writes uninformative importance scores of the same model.

  python -m experiments.pruning_270m.random_scores SCORES SEED FILE

SCORES is the scores.json of --mode=prune. The scores are shuffled: those of
layers, and those of channels and heads within each layer.
"""

import dataclasses
import sys

import numpy as np

from kd.pruning import scores as scores_lib


def shuffled(scores: scores_lib.Scores, seed: int) -> scores_lib.Scores:
  """Returns the scores shuffled, channels and heads within their layer."""
  rng = np.random.default_rng(seed)
  within = {
    name: rng.permuted(getattr(scores, name), axis=1)
    for name in ('channels', 'heads', 'attention_width', 'mlp_width')
  }
  return dataclasses.replace(
    scores,
    layers=rng.permutation(scores.layers),
    # All pairs of heads are equally similar.
    similarity=np.zeros_like(scores.similarity),
    facts={'shuffled_with_seed': seed},
    **within,
  )


if __name__ == '__main__':
  source, number, target = sys.argv[1:]
  read = scores_lib.read(source, 'SCORES')
  scores_lib.write(target, shuffled(read, int(number)))
