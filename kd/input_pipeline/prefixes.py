"""Looks up prefixes of examples that only the teacher's input contains."""

from collections.abc import Callable, Sequence
import functools

from kd.core import types
from kd.input_pipeline import prefix_template
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import tokenizers

_KEPT = 1 << 14  # Number of texts whose ids are cached.


class Prefixes:
  """Returns the ids of the prefixes of a batch's examples. Thread-safe."""

  def __init__(
    self,
    template: str,
    tokenizer: tokenizers.Tokenizer,
    prepared: Sequence[prepared_lib.Prepared],
  ):
    """Opens the rows if the template names columns.

    Args:
      template: see prefix_template; '' for empty prefixes.
      tokenizer: tokenizer of the teacher.
      prepared: rows that were prepared with the template.
    """
    self._encode = functools.lru_cache(_KEPT)(tokenizer.encode)
    self._rows, self._fixed = None, ''
    if prefix_template.columns(template):
      self._rows = rows_lib.Numbered(prepared)
    else:
      self._fixed = prefix_template.render(template, {}, '')

  def __call__(
    self, batch: types.Batch, row: int
  ) -> Callable[[int], Sequence[int]]:
    """Returns a function from a segment (from 1) to the ids of its prefix.

    Args:
      batch: a batch of numpy arrays.
      row: index of the row in the batch.
    """
    if self._rows is None:
      return lambda segment: self._encode(self._fixed)
    texts = self._rows.prefixes(int(batch.row_id[row]))
    return lambda segment: self._encode(texts[segment - 1])
