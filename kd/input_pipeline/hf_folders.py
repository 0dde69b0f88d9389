"""Converts the tokenizer of a Hugging Face folder to a SentencePiece model."""

from collections.abc import Iterator
import os

from sentencepiece import sentencepiece_model_pb2

from kd.core import errors
from kd.core import json_files
from kd.input_pipeline import added_tokens
from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import tokenizer_json

_Type = sentencepiece_models.Type
_Proto = sentencepiece_model_pb2.ModelProto


def read(directory: str) -> added_tokens.Folder:
  """Reads the tokenizer files of a folder, except tokenizer.model.

  Args:
    directory: a Hugging Face model directory.

  Raises:
    ConfigError: there is no such folder, a file is damaged, or two contradict
      each other.
  """
  if not os.path.isdir(directory):
    raise errors.ConfigError(directory, 'no such folder', legal=_LEGAL)
  return added_tokens.read(directory)


def model(folder: added_tokens.Folder) -> bytes:
  """Returns a SentencePiece model that produces the same ids as transformers.

  Starts from tokenizer.model, or else from an equivalent of tokenizer.json, and
  adds the tokens of tokenizer.json, tokenizer_config.json and
  added_tokens.json.

  Args:
    folder: the result of `read`.

  Returns:
    A serialized SentencePiece ModelProto.

  Raises:
    ConfigError: the folder has no tokenizer, a file is damaged, two contradict
      each other, or a token cannot be used; names the file or token.
  """
  added_tokens.check_flags(folder)
  directory = folder.directory
  file = os.path.join(directory, sentencepiece_models.MODEL_FILE)
  if os.path.isfile(file):
    with open(file, 'rb') as f:
      return _with_added(f.read(), file, folder)
  if folder.json:
    return tokenizer_json.model(folder)
  files = ', '.join(sorted(os.listdir(directory))[:8]) or 'nothing'
  raise errors.ConfigError(
    directory, f'contains no tokenizer (it contains {files})', legal=_LEGAL
  )


_FILES = f'{sentencepiece_models.MODEL_FILE} or {added_tokens.TOKENIZER_JSON}'
_LEGAL = f'a folder with {_FILES}'


def _with_added(raw: bytes, file: str, folder: added_tokens.Folder) -> bytes:
  """Returns the model of `file` with the tokens that the folder adds."""
  proto = sentencepiece_models.parse(raw, file)
  if folder.json:
    _check_same(proto, file, folder)
  changes = dict(_changes(proto, file, folder))
  if not changes:
    return raw
  added_tokens.check(folder)
  reason = sentencepiece_models.alters_text(proto)
  if reason:
    raise errors.ConfigError(
      file,
      f'{reason}, so the added token {changes[min(changes)]!r} cannot be used',
      legal='a model that leaves its text as it is, or no added tokens',
    )
  for index, text in sorted(changes.items()):
    if index == len(proto.pieces):
      proto.pieces.add(piece=text, score=0.0)
    elif index > len(proto.pieces):
      raise errors.ConfigError(
        folder.directory,
        f'the added token {text!r} has id {index}, and no token has id '
        f'{len(proto.pieces)}',
        legal='ids without gaps',
      )
    proto.pieces[index].type = _Type.USER_DEFINED
  proto.trainer_spec.vocab_size = len(proto.pieces)
  return proto.SerializeToString(deterministic=True)


def _check_same(proto: _Proto, file: str, folder: added_tokens.Folder) -> None:
  """Rejects a tokenizer.json that differs, since transformers prefers it."""
  other = os.path.join(folder.directory, added_tokens.TOKENIZER_JSON)
  ids = tokenizer_json.ids(folder, other)
  size = len(proto.pieces)
  beyond = {
    i: text for text, i in ids.items() if i >= size and i not in folder.added
  }
  for i, piece in enumerate(proto.pieces):
    if ids.get(piece.piece, i if i in folder.added else -1) != i:
      by_id = {i: text for text, i in ids.items()}
      raise errors.ConfigError(
        file,
        f'id {i} is {json_files.short(piece.piece)}, but '
        f'{json_files.short(by_id.get(i))} in {other}',
        legal='two files of one vocabulary, or one of them alone',
      )
  if beyond:
    i = min(beyond)
    raise errors.ConfigError(
      file, f'has no id {i}, which is {json_files.short(beyond[i])} in {other}'
    )


def _changes(
  proto: _Proto, file: str, folder: added_tokens.Folder
) -> Iterator[tuple[int, str]]:
  """Yields the tokens that the model lacks or does not match in text."""
  pieces = [piece.piece for piece in proto.pieces]
  by_text = {text: i for i, text in enumerate(pieces)}
  spec = proto.trainer_spec
  # SentencePiece identifies special pieces by text.
  special = (spec.bos_piece, spec.eos_piece, spec.pad_piece, spec.unk_piece)
  wanted = {i: token.content for i, token in folder.added.items()}
  last = max(wanted, default=-1)
  if last >= len(pieces) and wanted[last] in added_tokens.VISION:
    del wanted[last]
  known = set(wanted.values()) | set(added_tokens.VISION)
  for text in folder.named:
    if text in by_text:
      wanted[by_text[text]] = text
    elif text not in known:
      raise errors.ConfigError(
        os.path.join(folder.directory, added_tokens.CONFIG),
        f'{text!r} is a special token without an id',
        legal=f'tokens of {_FILES}',
      )
  for index, text in wanted.items():
    if by_text.get(text, index) != index or (
      index < len(pieces) and pieces[index] != text
    ):
      piece = pieces[index] if index < len(pieces) else None
      raise errors.ConfigError(
        file,
        f'id {index} is {piece!r}, but the added token {text!r}',
        legal='added tokens with ids of their own',
      )
    kind = proto.pieces[index].type if index < len(pieces) else None
    # Bytes that mark images in byte vocabularies stay bytes.
    if text not in special and kind not in (_Type.USER_DEFINED, _Type.BYTE):
      yield index, text
