"""Builds, parses and describes SentencePiece models."""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import math
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.models.gemma3 import chat_template as gemma_template

MODEL_FILE = 'tokenizer.model'
SPACE = '\u2581'  # SentencePiece's character for a space in a piece.

SOFT_IMAGE_TOKEN = '<image_soft_token>'
_IMAGE = '<start_of_image>', '<end_of_image>'
_BYTES_OF_IMAGE = '<0xFE>', '<0xFF>'

Type = sentencepiece_model_pb2.ModelProto.SentencePiece

PREFIX = 'tokenizer.ggml.'
_LISTS = ('tokens', 'scores', 'token_type')
_FIELDS = (
  *_LISTS,
  'bos_token_id',
  'eos_token_id',
  'unknown_token_id',
  'padding_token_id',
)


def from_bytes() -> bytes:
  """Serializes a model whose pieces are bytes.

  Ids: 0 <pad>, 1 <eos>, 2 <bos> (control), 3 <unk>, 4 <start_of_turn>,
  5 <end_of_turn> (matched in text), 6 the space, then the 256 bytes. Decoding
  returns the original text, except that U+2581, SentencePiece's symbol for a
  space, becomes a space, as in Gemma's vocabulary.

  Returns:
    The serialized ModelProto.
  """
  pieces = [(name, 0.0, Type.CONTROL) for name in ('<pad>', '<eos>', '<bos>')]
  pieces.append(('<unk>', 0.0, Type.UNKNOWN))
  pieces += [(mark, 0.0, Type.USER_DEFINED) for mark in gemma_template.MARKS]
  pieces.append((SPACE, 0.0, Type.NORMAL))
  pieces += [(f'<0x{byte:02X}>', 0.0, Type.BYTE) for byte in range(256)]
  return serialize(pieces, pad=0, eos=1, bos=2, unk=3)


def from_gguf(fields: Mapping[str, Any], path: str) -> bytes:
  """Serializes a model from the tokenizer fields of a GGUF file.

  Args:
    fields: fields of gguf_vocabularies.read, with 'llama' as `model`.
    path: the GGUF file, for messages.

  Returns:
    The serialized ModelProto.

  Raises:
    ConfigError: a field is missing or damaged.
  """
  check_present(fields, _FIELDS, path)
  special = {
    'bos': fields['bos_token_id'],
    'eos': fields['eos_token_id'],
    'pad': fields['padding_token_id'],
    'unk': fields['unknown_token_id'],
  }
  _check_fields(fields, special, path)
  fixed = {special[name]: Type.CONTROL for name in ('bos', 'eos', 'pad')}
  fixed[special['unk']] = Type.UNKNOWN
  pieces = []
  triples = zip(
    fields['tokens'], fields['scores'], fields['token_type'], strict=True
  )
  for index, (piece, score, kind) in enumerate(triples):
    pieces.append(_piece(piece, score, fixed.get(index, kind), index in fixed))
  return serialize(pieces, **special)


def _check_fields(
  fields: dict[str, Any], special: dict[str, Any], path: str
) -> None:
  """Raises ConfigError for wrong types, lengths or special ids."""
  kinds = {'tokens': str, 'scores': float, 'token_type': int}
  size = len(fields['tokens']) if isinstance(fields['tokens'], list) else 0
  for name, kind in kinds.items():
    value = fields[name]
    if (
      not isinstance(value, list)
      or len(value) != size
      or not all(type(x) is kind for x in value)
    ):
      raise errors.ConfigError(
        f'{path}: {PREFIX}{name}',
        'is damaged',
        legal=f'a list of {kind.__name__}, one for each of {size} tokens',
      )
  if not all(map(math.isfinite, fields['scores'])):
    raise errors.ConfigError(f'{path}: {PREFIX}scores', 'are not all finite')
  check_special(special, size, path)


def check_present(
  fields: Mapping[str, Any], names: Iterable[str], path: str
) -> None:
  """Raises ConfigError if a GGUF's tokenizer lacks some of these fields."""
  missing = [name for name in names if name not in fields]
  if missing:
    raise errors.ConfigError(
      path, f'lacks the fields {PREFIX}{{{", ".join(missing)}}}'
    )


def check_special(special: Mapping[str, Any], size: int, path: str) -> None:
  """Raises ConfigError if a special token's id is not in the vocabulary."""
  for name, index in special.items():
    if type(index) is not int or not 0 <= index < size:
      raise errors.ConfigError(
        path, f'its {name} token has id {index!r}', legal=f'0 to {size - 1}'
      )


def image_ids(
  pieces: Sequence[tuple[str, float, int]],
) -> tuple[int, int, int] | None:
  """Returns the ids of an image's start, of its soft tokens and of its end.

  In a byte vocabulary, two bytes that UTF-8 does not use mark start and end. If
  the vocabulary has no soft token, its id is the first one after the
  vocabulary.

  Args:
    pieces: (text, score, type) by id.

  Returns:
    The ids, None if the vocabulary does not support images.
  """
  ids = {text: i for i, (text, _, _) in enumerate(pieces)}
  first, last = _IMAGE if _IMAGE[0] in ids else _BYTES_OF_IMAGE
  if first not in ids or last not in ids:
    return None
  if first != _IMAGE[0]:
    normal = {text for text, _, kind in pieces if kind == Type.NORMAL}
    if normal != {SPACE}:
      return None
  return ids[first], ids.get(SOFT_IMAGE_TOKEN, len(pieces)), ids[last]


def parse(raw: bytes, name: str) -> sentencepiece_model_pb2.ModelProto:
  """Parses a serialized model.

  Args:
    raw: the serialized model.
    name: name of the model in errors.

  Raises:
    ConfigError: the bytes are not a ModelProto.
  """
  try:
    return sentencepiece_model_pb2.ModelProto.FromString(raw)
  except Exception as e:  # DecodeError of protobuf, which kd does not import.
    raise not_a_model(name, e) from e


def not_a_model(name: str, reason: Exception) -> errors.ConfigError:
  """Returns the error for bytes that are not a SentencePiece model.

  Args:
    name: file or config field with the bytes.
    reason: exception of the library.
  """
  return errors.ConfigError(
    name,
    f'is not a SentencePiece model ({reason})',
    legal='a serialized SentencePiece model',
  )


def alters_text(proto: sentencepiece_model_pb2.ModelProto) -> str:
  """Describes how a model changes text before splitting it; '' if it does not.

  Args:
    proto: the model.
  """
  spec = proto.normalizer_spec
  if spec.precompiled_charsmap or spec.normalization_rule_tsv:
    return f'its normalizer is {spec.name or "custom"!r}'
  if spec.add_dummy_prefix:
    return 'it puts a space before every text (add_dummy_prefix)'
  if spec.remove_extra_whitespaces:
    return 'it drops repeated spaces (remove_extra_whitespaces)'
  if not spec.escape_whitespaces:
    return 'it does not escape spaces (escape_whitespaces is false)'
  if proto.trainer_spec.treat_whitespace_as_suffix:
    return 'it puts spaces at the ends of words (treat_whitespace_as_suffix)'
  return ''


def settings(proto: sentencepiece_model_pb2.ModelProto) -> dict[str, Any]:
  """Returns the settings that determine the ids in addition to the pieces.

  Byte fallback is left out, since the types of the pieces imply it.

  Args:
    proto: the model.
  """
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  charsmap = normalizer.precompiled_charsmap
  return {
    'model_type': trainer.ModelType.Name(trainer.model_type).lower(),
    'treat_whitespace_as_suffix': trainer.treat_whitespace_as_suffix,
    'normalizer': hashlib.sha256(charsmap).hexdigest()[:16] if charsmap else '',
    'add_dummy_prefix': normalizer.add_dummy_prefix,
    'remove_extra_whitespaces': normalizer.remove_extra_whitespaces,
    'escape_whitespaces': normalizer.escape_whitespaces,
  }


def _piece(
  piece: str, score: float, kind: int, fixed: bool
) -> tuple[str, float, int]:
  """Returns a GGUF token as a SentencePiece piece with its score and type."""
  if fixed or kind in (Type.BYTE, Type.UNUSED):
    return piece, score, kind
  if set(piece) == {' '}:
    # GGUF stores runs of spaces as plain spaces, which would never match the
    # escaped spaces of a text.
    piece = SPACE * len(piece)
  if kind in (Type.CONTROL, Type.USER_DEFINED):
    # llama.cpp treats Gemma's turn marks as control tokens, but SentencePiece
    # matches them in text.
    return piece, score, Type.USER_DEFINED
  return piece, score, Type.NORMAL


def serialize(
  pieces: Iterable[tuple[str, float, int]],
  pad: int,
  eos: int,
  bos: int,
  unk: int,
) -> bytes:
  """Serializes a byte-fallback BPE model that does not normalize text.

  Args:
    pieces: (text, score, type) by id.
    pad: id of padding, -1 for none.
    eos: id that ends a text.
    bos: id that begins a text.
    unk: id of unknown text.

  Returns:
    The serialized ModelProto.
  """
  model = sentencepiece_model_pb2.ModelProto()
  for piece, score, kind in pieces:
    model.pieces.add(piece=piece, score=score, type=kind)
  trainer = model.trainer_spec
  trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
  trainer.vocab_size = len(model.pieces)
  trainer.byte_fallback = True
  trainer.pad_id = pad
  if pad >= 0:
    trainer.pad_piece = model.pieces[pad].piece
  trainer.eos_id, trainer.eos_piece = eos, model.pieces[eos].piece
  trainer.bos_id, trainer.bos_piece = bos, model.pieces[bos].piece
  trainer.unk_id, trainer.unk_piece = unk, model.pieces[unk].piece
  normalizer = model.normalizer_spec
  normalizer.name = 'identity'
  normalizer.add_dummy_prefix = False
  normalizer.remove_extra_whitespaces = False
  normalizer.escape_whitespaces = True
  return model.SerializeToString(deterministic=True)
