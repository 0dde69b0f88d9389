"""Defines the sizes that programs of a continuous batch are compiled for."""

import dataclasses

from kd.sampling import images as images_lib

_SHORTEST = 16  # Minimum padded length of prompts.
_GROWTH = 4  # Ratio of successive sizes of the batch.


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Sizes that programs are compiled for; they do not affect the answers.

  Attributes:
    batch: maximum number of answers at a time.
    length: maximum number of ids of a prompt and its answer.
    rows: divisor of every size of the batch: number of shards of the rows.
    steps: number of tokens that each row decodes before answers can join.
    min_slots: minimum number of cache positions of each row.
    images: maximum number of images of a prompt, if the model reads images.
  """

  batch: int
  length: int
  rows: int = 1
  steps: int = 4
  min_slots: int = 256
  images: int = 0

  @property
  def batches(self) -> tuple[int, ...]:
    """Returns the sizes of the batch."""
    sizes, size = [], self.rows
    while size < self.batch:
      sizes.append(size)
      size *= _GROWTH
    return (*sizes, self.batch)

  @property
  def slots(self) -> tuple[int, ...]:
    """Returns the sizes of the cache, as numbers of positions."""
    sizes, size = [self.length], self.length // _GROWTH
    while size >= self.min_slots:
      sizes.append(size)
      size //= _GROWTH
    return tuple(sorted(sizes))

  @property
  def prompts(self) -> tuple[int, ...]:
    """Returns the padded lengths of prompts."""
    sizes, size = [], _SHORTEST
    while size < self.length:
      sizes.append(size)
      size *= 2
    return (*sizes, self.length)

  def image_prompts(self, tokens: int) -> list[tuple[int, int]]:
    """Returns the numbers of ids and images of a prompt for each image program.

    Args:
      tokens: number of soft tokens of an image.
    """
    shapes = {}
    for length in self.prompts:
      ids = min(length + 1, self.length)
      for count in range(1, min(self.images, (ids - 1) // tokens) + 1):
        shapes[length, images_lib.slots(count)] = ids, count
    return list(shapes.values())
