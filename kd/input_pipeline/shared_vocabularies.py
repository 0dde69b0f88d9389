"""Matches the vocabularies of two tokenizers."""

from collections.abc import Mapping, Sequence

import numpy as np

from kd.input_pipeline import tokenizers
from kd.losses import projected_distributions


def match(
  student: tokenizers.Tokenizer,
  teacher: tokenizers.Tokenizer,
  roles: Mapping[int, int],
) -> projected_distributions.SharedVocabulary:
  """Returns the outcomes by which the ids of both tokenizers are compared.

  Args:
    student: the student's tokenizer.
    teacher: the teacher's tokenizer.
    roles: the teacher's ids by those of the student, for ids with a role
      instead of text: BOS, EOS, marks of turns.
  """
  if student.digest == teacher.digest:
    return projected_distributions.same(student.vocab_size)
  own = _by_text(student, roles.keys())
  others = _by_text(teacher, roles.values())
  pairs = [*roles.items()]
  pairs += [(own[text], others[text]) for text in own if text in others]
  ids, teacher_ids = (
    np.array(x, np.int32) for x in zip(*sorted(pairs), strict=True)
  )
  return projected_distributions.SharedVocabulary(
    _side(student, ids, teacher, teacher_ids, roles.keys()),
    _side(teacher, teacher_ids, student, ids, roles.values()),
    False,
  )


def _by_text(tokenizer, special) -> dict[bytes, int]:
  """Maps ids' bytes to ids, preferably to those that encode the bytes."""
  found: dict[bytes, int] = {}
  for index in range(tokenizer.vocab_size):
    text = None if index in special else tokenizer.bytes_of(index)
    if not text:
      continue
    if text not in found or _writes(tokenizer, text, index):
      found[text] = index
  return found


def _writes(tokenizer, text, index) -> bool:
  try:
    return tokenizer.encode(text.decode()) == [index]
  except UnicodeDecodeError:
    return False


def _side(
  tokenizer: tokenizers.Tokenizer,
  ids: np.ndarray,
  other: tokenizers.Tokenizer,
  other_ids: np.ndarray,
  special: Sequence[int],
) -> projected_distributions.Side:
  """Returns one tokenizer's side of the shared vocabulary."""
  size = tokenizer.vocab_size
  rest = np.setdiff1d(np.arange(size, dtype=np.int32), ids)
  number = {int(index): n for n, index in enumerate(other_ids)}
  joined = [
    number.get(_begins(tokenizer, int(index), other), len(ids))
    if int(index) not in special
    else len(ids)
    for index in rest
  ]
  return projected_distributions.Side(
    ids, rest, np.array(joined, np.int32), size
  )


def _begins(tokenizer, index, other) -> int | None:
  """Returns the first id of an id's text in another tokenizer."""
  text = tokenizer.bytes_of(index)
  try:
    written = other.encode(text.decode()) if text else []
  except UnicodeDecodeError:
    return None
  return written[0] if written else None
