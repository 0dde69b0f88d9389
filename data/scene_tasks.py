"""Registers questions about drawn scenes, each with its picture.

All labels of `scenes` are right. Three in ten training labels of `scenes_noisy`
are wrong. Both have the same held-out questions, with right answers.
"""

import base64
from collections.abc import Iterator, Sequence
import functools
from typing import Any

from kd.data import scenes
from kd.input_pipeline import text_tasks
from kd.metrics import metric

SPLITS = ('train', 'validation')
TRAIN_SCENES = 40_000
NOISY_SCENES = 10_000
VALIDATION_SCENES = 1_000
NOISE = 0.3
_SEED = 0

# No files are read: the pictures are drawn.
DATA_FILES = {'scenes*': ()}


def exact_match(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, metric.Metric]:
  """Returns the fraction of answers that equal the target, as a metric."""
  equal = [
    target.strip() == prediction.strip()
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {'exact_match': metric.Metric(equal, title='exact match')}


def _examples(split: str, *, count: int, noise: float) -> Iterator[Any]:
  if split == 'validation':
    count, noise = VALIDATION_SCENES, 0.0
  drawn = scenes.generate(split, count, noise, _SEED)
  for i, (png, question, label) in enumerate(drawn):
    picture = {'type': 'image', 'base64': base64.b64encode(png).decode()}
    text = {'type': 'text', 'text': question.text}
    yield {
      'id': f'scenes-{split}-{i}',
      'messages': [
        {'role': 'user', 'content': [picture, text]},
        {'role': 'assistant', 'content': label},
      ],
    }


def _add(name: str, count: int, noise: float) -> None:
  text_tasks.add(
    name,
    functools.partial(_examples, count=count, noise=noise),
    SPLITS,
    metrics=[exact_match],
    sizes={'train': count, 'validation': VALIDATION_SCENES},
  )


_add('scenes', TRAIN_SCENES, noise=0.0)
_add('scenes_noisy', NOISY_SCENES, noise=NOISE)
