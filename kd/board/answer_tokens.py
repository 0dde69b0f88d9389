"""Splits recorded answers into the texts of their tokens."""

from collections.abc import Mapping
from typing import Any


def of(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
  """Returns the texts of an answer's tokens, each with its KL to the teacher.

  Args:
    record: record of an answer; see results.Result.

  Returns:
    By token: text, and kl, a list of one number. Tokens that share a character
    are joined and have several. The stop id comes last, without text. A rest
    that was not measured has no numbers. The texts together are the answer.
    None if the record has no KL of tokens, or is damaged.
  """
  answer = str(record.get('answer', ''))
  kls, ends = record.get('token_kl'), record.get('token_ends')
  if not isinstance(kls, list) or not isinstance(ends, list):
    return None
  begins = [0, *ends[:-1]]
  if len(kls) != len(ends) or not all(
    isinstance(end, int) and begin <= end <= len(answer)
    for begin, end in zip(begins, ends, strict=True)
  ):
    return None
  tokens, begin, waiting = [], 0, []
  for kl, end in zip(kls, ends, strict=True):
    waiting.append(kl)
    if end > begin:
      tokens.append({'text': answer[begin:end], 'kl': waiting})
      begin, waiting = end, []
  if begin < len(answer):
    tokens.append({'text': answer[begin:], 'kl': []})
  elif waiting:
    tokens.append({'text': '', 'kl': waiting})
  return tokens
