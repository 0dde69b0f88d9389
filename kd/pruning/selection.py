"""Selects the parts that a pruned model keeps, by importance scores."""

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
  """The kept parts of a model, as ascending indices.

  Attributes:
    layers: indices of the layers.
    channels: [S', F'], MLP channels of each kept layer.
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
  """Selects the most important parts; ties go to the lower index.

  Channels of the embedding are ranked by the sum of their scores over the kept
  layers.

  Args:
    request: the sizes, already checked by sizes.check.
    scores: scores of the model to prune.
    keep_layers: the layers to keep if the request does not select layers; ():
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
  """Returns the indices of the largest values, ascending."""
  return np.sort(np.argsort(-values, kind='stable')[:count])


def select_layers(
  request: sizes.Request, config: family.Config, importance: Sequence[float]
) -> tuple[int, ...]:
  """Returns the layers with the largest sum of importance.

  Args:
    request: the number of layers and their pattern.
    config: the model to prune.
    importance: importance of each layer.
  """
  kinds = sizes.kept_kinds(request, config)
  if kinds is None:
    return tuple(map(int, _largest(np.asarray(importance), request.layers)))
  # By last layer: the best selection so far, with its negative importance.
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
  """Returns the query heads to keep in a layer, equally many per group."""
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

  The pattern score of a head is the distance to the most similar remaining
  head, so that one of two similar heads is kept.
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

    # Ties: the head with the smaller activation is dropped, then the last one.
    left.remove(min(left, key=lambda i: (importance(i), activation[i], -i)))
  return np.array(left)
