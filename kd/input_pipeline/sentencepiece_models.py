"""SentencePiece models that no file carries: bytes, and a GGUF's vocabulary."""

from collections.abc import Iterable

from sentencepiece import sentencepiece_model_pb2

from kd.checkpoints import gguf_header
from kd.core import errors

SPACE = '\u2581'  # How SentencePiece writes a space inside a piece.
START_OF_TURN = '<start_of_turn>'
END_OF_TURN = '<end_of_turn>'

Type = sentencepiece_model_pb2.ModelProto.SentencePiece

_WANTED = 'tokenizer.ggml.'
_LISTS = ('tokens', 'scores', 'token_type')
_FIELDS = (
  *_LISTS,
  'bos_token_id',
  'eos_token_id',
  'unknown_token_id',
  'padding_token_id',
)


def from_bytes() -> bytes:
  """A serialized model whose pieces are bytes.

  Ids: 0 <pad>, 1 <eos>, 2 <bos> (control), 3 <unk>, 4 <start_of_turn>,
  5 <end_of_turn> (read in text), 6 the space, then the 256 bytes. Every text
  comes back as it was, except that U+2581, SentencePiece's own mark of a space,
  comes back as a space, as it does in Gemma's vocabulary.

  Returns:
    The ModelProto's bytes.
  """
  pieces = [(name, 0.0, Type.CONTROL) for name in ('<pad>', '<eos>', '<bos>')]
  pieces.append(('<unk>', 0.0, Type.UNKNOWN))
  pieces.append((START_OF_TURN, 0.0, Type.USER_DEFINED))
  pieces.append((END_OF_TURN, 0.0, Type.USER_DEFINED))
  pieces.append((SPACE, 0.0, Type.NORMAL))
  pieces += [(f'<0x{byte:02X}>', 0.0, Type.BYTE) for byte in range(256)]
  return _model(pieces, pad=0, eos=1, bos=2, unk=3)


def from_gguf(path: str) -> bytes:
  """A serialized model made of a GGUF file's tokenizer fields.

  Args:
    path: a GGUF file with a SentencePiece ('llama') vocabulary.

  Returns:
    The ModelProto's bytes.

  Raises:
    ConfigError: the file is no GGUF, or carries no such vocabulary.
  """
  lists = [_WANTED + name for name in _LISTS]
  metadata = gguf_header.read(path, lists).metadata
  fields = {
    key.removeprefix(_WANTED): value
    for key, value in metadata.items()
    if key.startswith(_WANTED)
  }
  kind = fields['model'] if 'model' in fields else None
  if kind != 'llama':
    raise errors.ConfigError(
      path,
      f'its tokenizer is of kind {kind!r}',
      legal="a GGUF whose tokenizer.ggml.model is 'llama' (SentencePiece)",
    )
  missing = [name for name in _FIELDS if name not in fields]
  if missing:
    raise errors.ConfigError(
      path, f'lacks the fields {_WANTED}{{{", ".join(missing)}}}'
    )
  special = {
    'bos': fields['bos_token_id'],
    'eos': fields['eos_token_id'],
    'pad': fields['padding_token_id'],
    'unk': fields['unknown_token_id'],
  }
  fixed = {special[name]: Type.CONTROL for name in ('bos', 'eos', 'pad')}
  fixed[special['unk']] = Type.UNKNOWN
  pieces = []
  triples = zip(
    fields['tokens'], fields['scores'], fields['token_type'], strict=True
  )
  for index, (piece, score, kind) in enumerate(triples):
    pieces.append(_piece(piece, score, fixed.get(index, kind), index in fixed))
  return _model(pieces, **special)


def _piece(
  piece: str, score: float, kind: int, fixed: bool
) -> tuple[str, float, int]:
  """One GGUF token as a SentencePiece piece, its score and type."""
  if fixed or kind in (Type.BYTE, Type.UNUSED):
    return piece, score, kind
  if set(piece) == {' '}:
    # GGUF writes the runs of spaces with plain spaces, which would never match
    # text whose spaces were escaped.
    piece = SPACE * len(piece)
  if kind in (Type.CONTROL, Type.USER_DEFINED):
    # Gemma's turn marks are control tokens to llama.cpp, but its SentencePiece
    # model reads them in text.
    return piece, score, Type.USER_DEFINED
  return piece, score, Type.NORMAL


def _model(
  pieces: Iterable[tuple[str, float, int]],
  pad: int,
  eos: int,
  bos: int,
  unk: int,
) -> bytes:
  """Serializes a byte-fallback BPE model that leaves its text untouched."""
  model = sentencepiece_model_pb2.ModelProto()
  for piece, score, kind in pieces:
    model.pieces.add(piece=piece, score=score, type=kind)
  trainer = model.trainer_spec
  trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
  trainer.vocab_size = len(model.pieces)
  trainer.byte_fallback = True
  trainer.pad_id, trainer.pad_piece = pad, model.pieces[pad].piece
  trainer.eos_id, trainer.eos_piece = eos, model.pieces[eos].piece
  trainer.bos_id, trainer.bos_piece = bos, model.pieces[bos].piece
  trainer.unk_id, trainer.unk_piece = unk, model.pieces[unk].piece
  normalizer = model.normalizer_spec
  normalizer.name = 'identity'
  normalizer.add_dummy_prefix = False
  normalizer.remove_extra_whitespaces = False
  normalizer.escape_whitespaces = True
  return model.SerializeToString(deterministic=True)
