"""Plots importance scores and the kept parts of a model."""

import numpy as np

from kd.core import atomic_files
from kd.pruning import scores as scores_lib
from kd.pruning import selection as selection_lib

FILE = 'scores.png'
_KEPT, _REMOVED = 'tab:blue', 'lightgrey'


def draw(
  path: str,
  scores: scores_lib.Scores,
  selection: selection_lib.Selection | None,
) -> None:
  """Draws one panel each for layers, MLP channels, heads and embedding.

  Args:
    path: path of the PNG file.
    scores: importance scores.
    selection: the parts to keep, which are marked; None if not selected yet.
  """
  import matplotlib  # Slow to import.

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.2), layout='constrained')
  (layers, channels), (heads, width) = axes
  _layers(layers, scores, selection)
  _channels(channels, scores, selection)
  _heads(figure, heads, scores, selection)
  _width(width, scores, selection)
  atomic_files.write_picture(path, figure, dpi=110)
  pyplot.close(figure)


def _layers(axis, scores, selection):
  from matplotlib import ticker

  count = scores.config.num_layers
  kept = range(count) if selection is None else selection.layers
  colors = [_KEPT if i in kept else _REMOVED for i in range(count)]
  axis.bar(range(count), scores.layers, color=colors, edgecolor='grey')
  axis.set_yscale('log')
  axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  axis.set_title('layers: 1 - cosine(input, output)', fontsize=10)
  axis.set_xlabel('layer')
  axis.margins(x=0.02)


def _channels(axis, scores, selection):
  from matplotlib import pyplot

  colors = pyplot.get_cmap('viridis')(np.linspace(0, 1, len(scores.channels)))
  for layer, (values, color) in enumerate(
    zip(scores.channels, colors, strict=True)
  ):
    label = f'layer {layer}' if layer in (0, len(colors) - 1) else None
    axis.plot(_descending(values), color=color, linewidth=1, label=label)
  if selection is not None:
    axis.axvline(selection.channels.shape[1], color=_KEPT, linestyle='--')
  axis.set_title(
    'MLP channels of each layer, relative to the mean', fontsize=10
  )
  axis.set_xlabel('rank')
  axis.set_yscale('log')
  axis.legend(frameon=False)


def _descending(values):
  return np.sort(values)[::-1] / max(values.mean(), np.finfo(float).tiny)


def _heads(figure, axis, scores, selection):
  shares = scores.heads / np.maximum(
    scores.heads.sum(axis=1, keepdims=True), np.finfo(float).tiny
  )
  image = axis.imshow(shares, aspect='auto', cmap='Blues', vmin=0)
  figure.colorbar(image, ax=axis)
  if selection is not None:
    for layer, kept in zip(selection.layers, selection.heads, strict=True):
      axis.plot(kept, [layer] * len(kept), '.', color='tab:orange')
  axis.set_title(
    "query heads: share of the layer's activation (dots: kept)", fontsize=10
  )
  axis.set_xticks(range(shares.shape[1]))
  axis.set_xlabel('head')
  axis.set_ylabel('layer')


def _width(axis, scores, selection):
  layers = slice(None) if selection is None else list(selection.layers)
  total = (scores.attention_width + scores.mlp_width)[layers].sum(axis=0)
  axis.plot(_descending(total), color='black', linewidth=1)
  if selection is not None:
    axis.axvline(len(selection.width), color=_KEPT, linestyle='--')
  axis.set_title('embedding channels, relative to the mean', fontsize=10)
  axis.set_xlabel('rank')
  axis.set_yscale('log')
