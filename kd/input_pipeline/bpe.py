"""Converts between SentencePiece scores and the merges of a tokenizer.json.

SentencePiece merges the two neighbors that form the piece with the highest
score, leftmost first. The `tokenizers` library merges the pair that comes first
in a list. Both produce the same ids if the list contains every split of each
piece into two pieces, in order of decreasing score, and no two scores are
equal.
"""

from collections.abc import Iterable, Mapping, Sequence

from kd.core import json_files
from kd.input_pipeline import sentencepiece_models

Piece = tuple[str, float, int]  # Text, score, type.
Merge = tuple[str, str]

_Type = sentencepiece_models.Type
_show = json_files.short
_SPACE = sentencepiece_models.SPACE
BYTES = tuple(f'<0x{byte:02X}>' for byte in range(256))


def is_run(piece: str, kind: int) -> bool:
  """Returns whether a piece is a user-defined run of spaces.

  `tokenizers` matches added tokens before it replaces spaces, so such a run
  never matches: merges must produce it.

  Args:
    piece: text of the piece.
    kind: type of the piece.
  """
  return kind == _Type.USER_DEFINED and set(piece) == {_SPACE}


def merges(pieces: Sequence[Piece]) -> list[Merge]:
  """Returns the merges in order of priority.

  The order of the merges that form one piece does not matter.

  Args:
    pieces: (text, score, type) by id.

  Returns:
    (left, right) pairs.
  """
  normal = {p: -score for p, score, kind in pieces if kind == _Type.NORMAL}
  # Runs of spaces come first, the longest before shorter ones, so that merging
  # from the left forms the longest match, as in SentencePiece.
  runs = {p: -len(p) for p, _, kind in pieces if is_run(p, kind)}
  result = []
  for rank in sorted(runs, key=runs.__getitem__):
    pairs = _cuts(rank, runs.keys() | {_SPACE})
    result += pairs
  for piece in sorted(normal, key=normal.__getitem__):
    result += _cuts(piece, normal)
  return result


def _cuts(piece: str, parts: Iterable[str]) -> list[Merge]:
  """Returns the splits of a piece into two of `parts`."""
  return [
    (piece[:at], piece[at:])
    for at in range(1, len(piece))
    if piece[:at] in parts and piece[at:] in parts
  ]


def problem(pieces: Sequence[Piece]) -> str:
  """Explains why no list of merges can reproduce the ids of a vocabulary.

  Args:
    pieces: (text, score, type) by id.

  Returns:
    The reason, '' if there is such a list.
  """
  texts = {text for text, _, _ in pieces}
  missing = [byte for byte in BYTES if byte not in texts]
  if missing:
    return f'it has no piece {missing[0]}: bytes cannot stand for all text'
  seen: dict[float, str] = {}
  for text, score, kind in pieces:
    if kind == _Type.UNUSED:
      return f'piece {_show(text)} is marked as unused'
    spaced = _SPACE in text or ' ' in text
    if kind == _Type.USER_DEFINED and spaced and not is_run(text, kind):
      return f'the user-defined piece {_show(text)} contains a space'
    if kind != _Type.NORMAL or len(text) == 1:
      continue
    if score in seen:
      both = f'{_show(seen[score])} and {_show(text)}'
      return f'pieces {both} have the same score {score}'
    seen[score] = text
    lacking = [char for char in text if char not in texts]
    if lacking:
      char = lacking[0]
      return f'piece {_show(text)} contains {char!r}, which is not a piece'
  return ''


def scores(
  vocabulary: Sequence[str], kinds: Sequence[int], listed: Sequence[Merge]
) -> list[float]:
  """Returns scores that correspond to a list of merges.

  Args:
    vocabulary: texts of the pieces by id.
    kinds: types of the pieces by id.
    listed: the merges.

  Returns:
    0, -1, -2, ... for the NORMAL pieces, in the order of their ids if that
    agrees with the list, as in Gemma's models, else in the order of the list.
    0 for all other pieces.
  """
  first: dict[str, int] = {}
  for at, (left, right) in enumerate(listed):
    first.setdefault(left + right, at)
  normal = [i for i, kind in enumerate(kinds) if kind == _Type.NORMAL]
  order = [first[vocabulary[i]] for i in normal if vocabulary[i] in first]
  if any(a > b for a, b in zip(order, order[1:], strict=False)):
    last = len(listed)
    normal.sort(key=lambda i: first.get(vocabulary[i], last))
  result = [0.0] * len(vocabulary)
  for rank, i in enumerate(normal):
    result[i] = -float(rank)
  return result


def difference(pieces: Sequence[Piece], listed: Sequence[Merge]) -> str:
  """Describes how a list of merges differs from the one the pieces imply.

  Merges that form a user-defined piece are ignored, since such pieces are split
  off before merging. Merges of runs of spaces are compared by their results.

  Args:
    pieces: (text, score, type) by id.
    listed: the list of merges.

  Returns:
    The first difference, '' if there is none.
  """
  rank = {p: -score for p, score, kind in pieces if kind == _Type.NORMAL}
  runs = {p for p, _, kind in pieces if is_run(p, kind)}
  apart = {p for p, _, kind in pieces if kind != _Type.NORMAL} - runs
  of_runs, made, lengths, count = {}, '', set(), 0
  for at, (left, right) in enumerate(listed):
    before, made = made, left + right
    if made in apart:
      made = before
    elif made in runs:
      of_runs[len(left), len(right)] = at
      if before:
        pair = f'{_show(left)} + {_show(right)}'
        return f'{pair} comes after {_show(before)}'
      made = before
    elif made not in rank or left not in rank or right not in rank:
      pair = f'{_show(left)} + {_show(right)}'
      return f'{pair} merges or produces a text that is not a piece'
    else:
      if made != before:
        if before and rank[before] >= rank[made]:
          return f'{_show(made)} comes again after {_show(before)}'
        lengths = set()
      elif len(left) in lengths:
        return f'{_show(left)} + {_show(right)} is listed twice'
      lengths.add(len(left))
      count += 1
  # Each merge is another split of a piece, so equal counts mean equal lists.
  wanted = sum(_count_cuts(piece, rank) for piece in rank)
  if count != wanted:
    return f'it has {count} merges, where the vocabulary has {wanted} cuts'
  return _difference_of_runs({len(run) for run in runs}, of_runs)


def _count_cuts(piece: str, parts: Mapping[str, float]) -> int:
  return sum(
    piece[:at] in parts and piece[at:] in parts for at in range(1, len(piece))
  )


def _difference_of_runs(
  lengths: set[int], order: Mapping[tuple[int, int], int]
) -> str:
  """Compares the merges of runs of spaces with the longest matches."""
  most = max(lengths, default=1)
  for length in range(1, 3 * most + 1):
    wanted, rest = [], length
    while rest:
      wanted.append(max((n for n in lengths if n <= rest), default=1))
      rest -= wanted[-1]
    parts = [1] * length
    while pairs := [
      (order[pair], i)
      for i, pair in enumerate(zip(parts, parts[1:], strict=False))
      if pair in order
    ]:
      _, at = min(pairs)
      parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if parts != wanted:
      return f'{length} spaces become runs of {parts}, not of {wanted}'
  return ''
