"""Describes the images that a model reads: their size and number of tokens."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Form:
  """The images that a model reads.

  Attributes:
    size: S, the width and height in pixels that images are resized to.
    tokens: T, soft tokens of an image.
    soft_id: stands in rows at the place of each of them.
    per_row: I, images of a row at most.
    pan_and_scan: whether crops of long images are added to them.
  """

  size: int
  tokens: int
  soft_id: int
  per_row: int
  pan_and_scan: bool = False

  @property
  def request(self) -> dict[str, Any]:
    """Returns what rows depend on; images are resized when they are read."""
    fields = dataclasses.asdict(self)
    return {name: fields[name] for name in fields if name != 'size'}

  @classmethod
  def of_request(cls, request: Mapping[str, Any]) -> 'Form | None':
    """Returns the form of a request for rows, without the size."""
    fields = request.get('images')
    return cls(size=0, **fields) if fields else None

  def index(self, tokens: np.ndarray) -> np.ndarray:
    """Returns types.Images.index of rows.

    Args:
      tokens: [..., L]; a row has the soft tokens of its images in order.
    """
    is_soft = tokens == self.soft_id
    return np.where(is_soft, np.cumsum(is_soft, -1) - 1, -1).astype(np.int32)
