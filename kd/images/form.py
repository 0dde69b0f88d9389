"""Describes the image inputs of a model: size and number of tokens."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Form:
  """The image inputs of a model.

  Attributes:
    size: S, width and height in pixels to which images are resized.
    tokens: T, number of soft tokens per image.
    soft_id: id that marks the positions of soft tokens in rows.
    per_row: I, maximum number of images per row.
    pan_and_scan: whether crops of elongated images are added to them.
  """

  size: int
  tokens: int
  soft_id: int
  per_row: int
  pan_and_scan: bool = False

  @property
  def request(self) -> dict[str, Any]:
    """Returns the fields that rows depend on: all except the size.

    Images are resized when they are read.
    """
    fields = dataclasses.asdict(self)
    return {name: fields[name] for name in fields if name != 'size'}

  @classmethod
  def of_request(cls, request: Mapping[str, Any]) -> 'Form | None':
    """Returns the form in a request for rows; its size is 0."""
    fields = request.get('images')
    return cls(size=0, **fields) if fields else None

  def index(self, tokens: np.ndarray) -> np.ndarray:
    """Returns types.Images.index of rows.

    Args:
      tokens: [..., L]; the soft tokens of a row are in the order of its images.
    """
    is_soft = tokens == self.soft_id
    return np.where(is_soft, np.cumsum(is_soft, -1) - 1, -1).astype(np.int32)
