"""Prefixes of examples, which the teacher reads and the student does not."""

from collections.abc import Callable, Sequence
import functools

from kd.core import types
from kd.input_pipeline import prefix_template
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import tokenizers

_KEPT = 1 << 14  # Texts whose ids are kept.


class Prefixes:
  """Finds the ids of the prefixes of a batch's examples; thread-safe."""

  def __init__(
    self,
    template: str,
    tokenizer: tokenizers.Tokenizer,
    prepared: Sequence[prepared_lib.Prepared],
  ):
    """Opens the rows if the template names columns.

    Args:
      template: see prefix_template; '': every prefix is empty.
      tokenizer: the teacher's.
      prepared: the rows, prepared with the template.
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
    """Returns the map from a row's segment, from 1, to the ids of its prefix.

    Args:
      batch: numpy arrays.
      row: of the batch.
    """
    if self._rows is None:
      return lambda segment: self._encode(self._fixed)
    texts = self._rows.prefixes(int(batch.row_id[row]))
    return lambda segment: self._encode(texts[segment - 1])
