"""Text of an answer as it grows, for a reader who sees each part at once."""

from collections.abc import Sequence

from kd.sampling import stops

# What decoding writes for bytes that are no whole character.
_INCOMPLETE = '\N{REPLACEMENT CHARACTER}'


class Stream:
  """Splits the text of one answer into parts that will not change any more.

  Kept back are the bytes of a character that later ids may complete, and what
  may be the beginning of a stop string. The parts together are the answer's
  text.

  Attributes:
    text: all parts so far.
  """

  def __init__(self, decode: stops.Decode, stop_strings: Sequence[str]):
    """Starts an answer.

    Args:
      decode: ids to text.
      stop_strings: each of them ends an answer, and is cut off.
    """
    self._decode, self._stop_strings = decode, stop_strings
    self.text = ''

  def add(self, ids: Sequence[int]) -> str:
    """Returns the new part.

    Args:
      ids: all ids of the answer so far; their text holds no stop string.
    """
    text = self._decode(ids).rstrip(_INCOMPLETE)
    return self.end(text[: stops.surely_kept(text, self._stop_strings)])

  def end(self, text: str) -> str:
    """Returns what is missing of the answer's whole text."""
    part = text[len(self.text) :]
    self.text += part
    return part
