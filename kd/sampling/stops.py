"""Finds stop strings in answers."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


def end(
  decode: Decode, ids: Sequence[int], known: int, strings: Sequence[str]
) -> tuple[int, str] | None:
  """Finds the first stop string.

  Args:
    decode: converts ids to text.
    ids: ids of an answer.
    known: number of ids already searched.
    strings: the stop strings.

  Returns:
    The number of ids up to the end of the stop string, and the text before it;
    None if there is none.
  """
  if not strings or _find(decode(ids), strings) is None:
    return None
  # The fewest ids, so that the result does not depend on the slices of steps.
  for count in range(known + 1, len(ids) + 1):
    text = decode(ids[:count])
    at = _find(text, strings)
    if at is not None:
      return count, text[:at]
  return None


def safe_length(text: str, strings: Sequence[str]) -> int:
  """Returns the number of characters that any following text leaves unchanged.

  Args:
    text: a text without a stop string.
    strings: the stop strings.
  """
  longest = max(map(len, strings), default=0)
  for begin in range(max(len(text) - longest, 0), len(text)):
    if any(string.startswith(text[begin:]) for string in strings):
      return begin
  return len(text)


def _find(text, strings):
  """Returns the start of the first of the strings; None if there is none."""
  found = [text.find(string) for string in strings]
  return min((at for at in found if at >= 0), default=None)
