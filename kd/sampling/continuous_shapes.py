"""Sizes of a continuous batch, for each of which there is a program."""

import dataclasses

from kd.sampling import images as images_lib

_SHORTEST = 16  # padded length of prompts
_GROWTH = 4  # from one size of the batch to the next


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Sizes that programs are compiled for; they change no answer.

  Attributes:
    batch: the most answers at a time.
    length: the most ids of a prompt and its answer.
    rows: a divisor of every size of the batch: the devices that share rows.
    steps: tokens that each row decodes before others can join.
    fewest_slots: the least number of positions that rows have room for.
    images: the most images of a prompt, if the model reads images.
  """

  batch: int
  length: int
  rows: int = 1
  steps: int = 4
  fewest_slots: int = 256
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
    """Returns the numbers of positions that rows have room for."""
    sizes, size = [self.length], self.length // _GROWTH
    while size >= self.fewest_slots:
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
    """Returns a prompt, by ids and images, for each program with images.

    Args:
      tokens: soft tokens of an image.
    """
    shapes = {}
    for length in self.prompts:
      ids = min(length + 1, self.length)
      for count in range(1, min(self.images, (ids - 1) // tokens) + 1):
        shapes[length, images_lib.slots(count)] = ids, count
    return list(shapes.values())
