"""Formats rows as text with highlighted targets."""

from collections.abc import Sequence
import itertools
import re

import numpy as np

from kd.images import pictures
from kd.input_pipeline import packing
from kd.input_pipeline import tokenizers

_LONGEST = 4000  # characters shown per example
_GREEN, _YELLOW, _RESET = '\x1b[32m', '\x1b[33m', '\x1b[0m'
_BETWEEN = '\n--- next example in the row ---\n'


def text(
  examples: Sequence[packing.Example],
  tokenizer: tokenizers.Tokenizer,
  color: bool,
) -> str:
  """Returns the examples of a row as text.

  Args:
    examples: the examples in order.
    tokenizer: tokenizer of the ids.
    color: whether to highlight targets in color: green, or yellow with a prefix
      for weights other than 1. False highlights with [[double brackets]].
  """
  return _BETWEEN.join(_example(e, tokenizer, color) for e in examples)


def _example(example, tokenizer, color):
  parts, left = [], _LONGEST
  labels = iter(map(_label, example.images))
  # The first id is never a target, whatever its weight.
  weights = np.concatenate([[0.0], example.weights[1:]])
  pairs = zip(example.ids.tolist(), weights.tolist(), strict=True)
  for weight, run in itertools.groupby(pairs, key=lambda pair: pair[1]):
    said = _printable(_decode([i for i, _ in run], tokenizer, labels))
    more = len(said) - left
    parts.append(_marked(said[:left], weight, color))
    left -= len(said)
    if left <= 0:
      parts.append(f'... (truncated, at least {more:,} more characters)')
      break
  return ''.join(parts)


def _marked(said, weight, color):
  if not weight:
    return said
  factor = '' if weight == 1 else f'{weight:g}: '
  if color:
    return f'{_YELLOW if factor else _GREEN}{factor}{said}{_RESET}'
  return f'[[{factor}{said}]]'


def _label(slot):
  width, height = pictures.size(slot.data)
  crop = f', crop {slot.crop}' if slot.crop else ''
  return f'[image of {width} x {height}{crop}]'


def _decode(ids, tokenizer, labels):
  """Returns the text of ids, with names of special tokens and image labels.

  Args:
    ids: the ids to decode.
    tokenizer: tokenizer of the ids.
    labels: iterator over the labels of the next images.
  """
  start, soft, end = tokenizer.image_ids or (None, None, None)
  if soft in ids:
    shown = []
    for is_soft, run in itertools.groupby(ids, key=soft.__eq__):
      text = [i for i in run if i not in (start, end)]
      shown.append(
        next(labels) if is_soft else _decode(text, tokenizer, labels)
      )
    return ''.join(shown)
  silent = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
  return ''.join(
    ''.join(map(tokenizer.text_of, run))
    if is_silent
    else tokenizer.decode(list(run))
    for is_silent, run in itertools.groupby(ids, key=silent.__contains__)
  )


def _printable(said):
  """Returns a text with control characters escaped."""
  return re.sub(
    r'[^\n\t]',
    lambda match: match[0] if match[0].isprintable() else repr(match[0])[1:-1],
    said,
  )
