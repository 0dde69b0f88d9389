"""Streams the text of an answer in parts."""

from collections.abc import Sequence

from kd.sampling import stops

# The decoder's replacement for bytes of an incomplete character.
_INCOMPLETE = '\N{REPLACEMENT CHARACTER}'


class Stream:
  """Splits the text of one answer into parts that will not change.

  Holds back the bytes of a character that later ids may complete, and text that
  may be the start of a stop string. The parts together are the answer's text.

  Attributes:
    text: all parts so far.
  """

  def __init__(self, decode: stops.Decode, stop_strings: Sequence[str]):
    """Starts an answer.

    Args:
      decode: converts ids to text.
      stop_strings: strings that end an answer and are removed from it.
    """
    self._decode, self._stop_strings = decode, stop_strings
    self.text = ''

  def add(self, ids: Sequence[int]) -> str:
    """Returns the new part.

    Args:
      ids: all ids of the answer so far; their text has no stop string.
    """
    text = self._decode(ids).rstrip(_INCOMPLETE)
    return self.end(text[: stops.safe_length(text, self._stop_strings)])

  def end(self, text: str) -> str:
    """Returns the rest of the answer's text, after all parts so far."""
    part = text[len(self.text) :]
    self.text += part
    return part
