"""Compares two tokenizers by the ids that they produce."""

import dataclasses

from kd.core import json_files
from kd.input_pipeline import byte_level
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import sentencepiece_tokenizer
from kd.input_pipeline import tokenizers

_Type = sentencepiece_models.Type


def describe(
  one: tokenizers.Tokenizer,
  other: tokenizers.Tokenizer,
  here: str = 'here',
  there: str = 'there',
) -> str:
  """Describes the first difference between two tokenizers.

  BPE depends on the order of the scores and ignores the scores of bytes and of
  user-defined pieces. These differ between files: 0 in a tokenizer.model, -1000
  in a GGUF file, none in a tokenizer.json.

  Args:
    one: a tokenizer.
    other: the tokenizer to compare it with.
    here: location of the first tokenizer in messages.
    there: location of the second tokenizer in messages.

  Returns:
    The first difference, '' if both produce the same ids for every text.
  """
  if one.digest == other.digest:
    return ''
  kinds = [_kind(tokenizer) for tokenizer in (one, other)]
  if kinds[0] != kinds[1]:
    return f'it is a {kinds[0]} {here}, a {kinds[1]} {there}'
  for name in ('bos_id', 'eos_id', 'pad_id'):
    a, b = getattr(one, name), getattr(other, name)
    if a != b:
      return f'{name} is {a} {here}, {b} {there}'
  if isinstance(one, sentencepiece_tokenizer.SentencePieceTokenizer):
    return _of_pieces(one, other, here, there)
  return _of_specs(one.spec, other.spec, here, there)


def _kind(tokenizer: tokenizers.Tokenizer) -> str:
  if isinstance(tokenizer, sentencepiece_tokenizer.SentencePieceTokenizer):
    return 'SentencePiece model'
  return 'byte-level BPE'


def _of_specs(
  one: byte_level.Spec, other: byte_level.Spec, here: str, there: str
) -> str:
  """Compares the specs of two byte-level BPE tokenizers."""
  for name in ('tokens', 'merges'):
    lists = getattr(one, name), getattr(other, name)
    what = {'tokens': 'id', 'merges': 'merge'}[name]
    for i, (a, b) in enumerate(zip(*lists, strict=False)):
      if a != b:
        return f'{what} {i} is {a!r} {here}, {b!r} {there}'
    sizes = [len(part) for part in lists]
    if sizes[0] != sizes[1]:
      return f'it has {sizes[0]} {what}s {here}, {sizes[1]} {there}'
  for i in sorted(one.added.keys() | other.added.keys()):
    a, b = (
      dataclasses.replace(spec.added[i], file='') if i in spec.added else None
      for spec in (one, other)
    )
    if a != b:
      text = one.tokens[i]
      if a and b:
        return f'the added token {text!r} has different matching flags'
      where = here if a else there
      return f'id {i} ({text!r}) is an added token only {where}'
  for name in ('normalizer', 'pre_tokenizer', 'decoder', 'ignore_merges'):
    a, b = getattr(one, name), getattr(other, name)
    if a != b:
      a, b = map(json_files.short, (a, b))
      return f'{name} is {a} {here}, {b} {there}'
  return ''


def _of_pieces(one, other, here, there) -> str:
  """Compares the pieces and settings of two SentencePiece models."""
  if one.unk_id != other.unk_id:
    return f'unk_id is {one.unk_id} {here}, {other.unk_id} {there}'
  for i, (a, b) in enumerate(zip(one.pieces, other.pieces, strict=False)):
    if a[0] != b[0]:
      return f'id {i} is {a[0]!r} {here}, {b[0]!r} {there}'
    if a[2] != b[2]:
      kinds = [_Type.Type.Name(piece[2]).lower() for piece in (a, b)]
      return f'id {i} ({a[0]!r}) is {kinds[0]} {here}, {kinds[1]} {there}'
  if one.vocab_size != other.vocab_size:
    return f'it has {one.vocab_size} ids {here}, {other.vocab_size} {there}'
  return _by_model(one, other, here, there)


def _by_model(one, other, here, there) -> str:
  """Compares the models' settings and the scores of their pieces."""
  settings = [
    sentencepiece_models.settings(
      sentencepiece_models.parse(t.model_proto, 'tokenizer')
    )
    for t in (one, other)
  ]
  for name, a in settings[0].items():
    b = settings[1][name]
    if a != b:
      return f'{name} is {a!r} {here}, {b!r} {there}'
  is_bpe = settings[0]['model_type'] == 'bpe'
  for i, (a, b) in enumerate(
    zip(_scores(one, is_bpe), _scores(other, is_bpe), strict=True)
  ):
    if a != b:
      kind = 'rank' if is_bpe else 'score'
      text = one.pieces[i][0]
      return f'the {kind} of id {i} ({text!r}) is {a} {here}, {b} {there}'
  return ''


def _scores(
  tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer, is_bpe: bool
) -> list[float]:
  """Returns the scores or, for BPE, their ranks; equal scores rank equally."""
  scores = [score for _, score, _ in tokenizer.pieces]
  if not is_bpe:
    return scores
  joined = {
    score
    for text, score, kind in tokenizer.pieces
    if kind == _Type.NORMAL and len(text) > 1
  }
  ranks = {score: rank for rank, score in enumerate(sorted(joined)[::-1])}
  return [
    ranks[score] if kind == _Type.NORMAL and len(text) > 1 else -1
    for text, score, kind in tokenizer.pieces
  ]
