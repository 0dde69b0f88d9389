"""Compares two tokenizers by the ids that they give."""

from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import tokenizers

_Type = sentencepiece_models.Type


def describe(
  one: tokenizers.Tokenizer,
  other: tokenizers.Tokenizer,
  here: str = 'here',
  there: str = 'there',
) -> str:
  """Says where two tokenizers differ.

  BPE looks at the order of the scores alone, and at no score of bytes and of
  pieces that are found before anything is joined. Files disagree about those:
  0 in a tokenizer.model, -1000 in a GGUF, none in a tokenizer.json.

  Args:
    one: a tokenizer.
    other: the tokenizer to compare it with.
    here: what the message calls the first.
    there: what the message calls the second.

  Returns:
    The first difference, '' if both give the same ids for every text.
  """
  if one.model_proto == other.model_proto:
    return ''
  for name in ('bos_id', 'eos_id', 'pad_id', 'unk_id'):
    a, b = getattr(one, name), getattr(other, name)
    if a != b:
      return f'{name} is {a} {here}, {b} {there}'
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


def _scores(tokenizer: tokenizers.Tokenizer, is_bpe: bool) -> list[float]:
  """Returns scores, of a BPE model the rank of each; equal ones are equal."""
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
