"""Selects what a pruned model keeps, by importance scores."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from kd.models import family
from kd.pruning import scores as scores_lib
from kd.pruning import sizes

ACTIVATION, PATTERN, BOTH = 'activation', 'pattern', 'both'
HEAD_SCORES = (BOTH, ACTIVATION, PATTERN)


@dataclasses.dataclass(frozen=True)
class Selection:
  """What is kept of a model; indices rise.

  Attributes:
    layers: indices of the layers.
    channels: [S', F'], of each kept layer's MLP.
    heads: [S', N'], query heads of each kept layer.
    width: [D'], channels of the embedding.
  """

  layers: tuple[int, ...]
  channels: np.ndarray
  heads: np.ndarray
  width: np.ndarray


def select(
  request: sizes.Request, scores: scores_lib.Scores, keep_layers: Sequence[int]
) -> Selection:
  """Selects the most important parts; of equal ones, the first.

  Channels of the embedding are ranked by their scores summed over the layers
  that are kept.

  Args:
    request: the sizes; sizes.check has accepted them.
    scores: of the model to prune.
    keep_layers: the layers to keep where the request does not choose them; ():
      all.
  """
  config = scores.config
  layers = tuple(keep_layers) or tuple(range(config.num_layers))
  if request.layers:
    layers = select_layers(request, config, scores.layers)
  widths = request.widths(config)
  own = list(layers)
  by_width = (scores.attention_width + scores.mlp_width)[own].sum(axis=0)
  return Selection(
    layers,
    channels=np.stack(
      [_largest(s, widths[sizes.MLP_DIM]) for s in scores.channels[own]]
    ),
    heads=np.stack(
      [
        _heads(scores, layer, widths[sizes.NUM_HEADS], request.head_score)
        for layer in own
      ]
    ),
    width=_largest(by_width, widths[sizes.EMBED_DIM]),
  )


def _largest(values, count):
  """Returns the indices of the largest values, rising."""
  return np.sort(np.argsort(-values, kind='stable')[:count])


def select_layers(
  request: sizes.Request, config: family.Config, importance: Sequence[float]
) -> tuple[int, ...]:
  """Returns the layers with the largest sum of importance.

  Args:
    request: how many, and whether their kinds are given.
    config: the model to prune.
    importance: of each layer.
  """
  kinds = sizes.kept_kinds(request, config)
  if kinds is None:
    return tuple(map(int, _largest(np.asarray(importance), request.layers)))
  # By the last layer: the best selection so far, with minus its importance.
  best = {-1: (0.0, ())}
  for wanted in kinds:
    extended = {}
    for layer, kind in enumerate(config.layer_kinds):
      before = [choice for last, choice in best.items() if last < layer]
      if kind == wanted and before:
        total, layers = min(before)
        extended[layer] = total - float(importance[layer]), (*layers, layer)
    best = extended
  return min(best.values())[1]


def _heads(scores, layer, count, head_score):
  """Returns the query heads of a layer to keep, the same number a group."""
  groups = scores.config.num_kv_heads
  activation = scores.heads[layer].reshape(groups, -1)
  size = activation.shape[1]
  return np.concatenate(
    [
      group * size + _of_group(own, similar, count // groups, head_score)
      for group, (own, similar) in enumerate(
        zip(activation, scores.similarity[layer], strict=True)
      )
    ]
  )


def _of_group(activation, similarity, count, head_score):
  """Drops the least important head until `count` are left.

  A head's map counts by its distance from the most similar head that is left,
  so that of two alike heads one stays.
  """
  left = list(range(len(activation)))
  while len(left) > count:

    def importance(head):
      others = [i for i in left if i != head]  # noqa: B023
      distance = 1 - similarity[head, others].max()
      return {
        ACTIVATION: activation[head],
        PATTERN: distance,
        BOTH: activation[head] * distance,
      }[head_score]

    # Of equally important ones, the one with the smaller activation goes, then
    # the last.
    left.remove(min(left, key=lambda i: (importance(i), activation[i], -i)))
  return np.array(left)
