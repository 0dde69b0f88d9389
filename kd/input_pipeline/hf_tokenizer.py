"""Writes a tokenizer as files that transformers, vLLM and llama.cpp read."""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from kd.input_pipeline import sentencepiece_models
from kd.input_pipeline import tokenizers

_Piece = tuple[str, float, int]


def write(
  tokenizer: tokenizers.Tokenizer, directory: str, chat_template: str
) -> None:
  """Writes tokenizer.model, tokenizer.json, its config and the special tokens.

  Args:
    tokenizer: a byte-fallback BPE model that leaves its text untouched, as
      Gemma's and 'bytes' are.
    directory: where to; made if need be. Files of the same names are replaced.
    chat_template: Jinja, as `templates.JINJA` has it.
  """
  os.makedirs(directory, exist_ok=True)
  names = _special_names(tokenizer)
  config = {
    **names,
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'add_bos_token': True,
    'add_eos_token': False,
    'clean_up_tokenization_spaces': False,
    'model_max_length': 10**30,  # transformers' own way to say "no limit".
    'chat_template': chat_template,
  }
  _write(directory, tokenizers.MODEL_FILE, tokenizer.model_proto)
  _write(directory, 'tokenizer.json', _dump(_fast(tokenizer)))
  _write(directory, 'tokenizer_config.json', _dump(config))
  _write(directory, 'special_tokens_map.json', _dump(names))


def _special_names(tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
  """The pieces that stand for BOS, EOS, padding and the unknown."""
  ids = {
    'bos_token': tokenizer.bos_id,
    'eos_token': tokenizer.eos_id,
    'pad_token': tokenizer.pad_id,
    'unk_token': tokenizer.unk_id,
  }
  return {name: tokenizer.pieces[index][0] for name, index in ids.items()}


def _fast(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
  """The contents of tokenizer.json: what the `tokenizers` library runs."""
  space = sentencepiece_models.SPACE
  pieces = tokenizer.pieces
  bos = pieces[tokenizer.bos_id][0]
  single = [
    {'SpecialToken': {'id': bos, 'type_id': 0}},
    {'Sequence': {'id': 'A', 'type_id': 0}},
  ]
  pair = single + [
    {'SpecialToken': {'id': bos, 'type_id': 1}},
    {'Sequence': {'id': 'B', 'type_id': 1}},
  ]
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': _added(tokenizer),
    'normalizer': {
      'type': 'Replace',
      'pattern': {'String': ' '},
      'content': space,
    },
    # Nothing is split off: BPE merges across words, as SentencePiece does.
    'pre_tokenizer': None,
    'post_processor': {
      'type': 'TemplateProcessing',
      'single': single,
      'pair': pair,
      'special_tokens': {
        bos: {'id': bos, 'ids': [tokenizer.bos_id], 'tokens': [bos]},
      },
    },
    'decoder': {
      'type': 'Sequence',
      'decoders': [
        {'type': 'Replace', 'pattern': {'String': space}, 'content': ' '},
        {'type': 'ByteFallback'},
        {'type': 'Fuse'},
      ],
    },
    'model': {
      'type': 'BPE',
      'dropout': None,
      'unk_token': pieces[tokenizer.unk_id][0],
      'continuing_subword_prefix': None,
      'end_of_word_suffix': None,
      'fuse_unk': True,
      'byte_fallback': True,
      'ignore_merges': False,
      'vocab': {piece: i for i, (piece, _, _) in enumerate(pieces)},
      'merges': merges(pieces),
    },
  }


def _added(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
  """The tokens that are found in text before anything is merged."""
  kind = sentencepiece_models.Type
  special = {tokenizer.start_of_turn_id, tokenizer.end_of_turn_id}
  added = []
  for index, (piece, _, of_kind) in enumerate(tokenizer.pieces):
    is_special = of_kind in (kind.CONTROL, kind.UNKNOWN) or index in special
    if is_special or of_kind == kind.USER_DEFINED:
      added.append(
        {
          'id': index,
          'content': piece,
          'single_word': False,
          'lstrip': False,
          'rstrip': False,
          'normalized': False,
          'special': is_special,
        }
      )
  return added


def merges(pieces: Sequence[_Piece]) -> list[list[str]]:
  """The pairs that BPE may join, the first to be joined first.

  SentencePiece joins the neighbours that make the piece of the highest score;
  `tokenizers` goes by a list of pairs. So every way to cut a piece in two
  pieces is listed, by falling score; ways to make one piece do not compete.

  Args:
    pieces: (piece, score, type) by id.

  Returns:
    [left, right] pairs.
  """
  ranks = {}
  for piece, score, of_kind in pieces:
    if of_kind == sentencepiece_models.Type.NORMAL:
      ranks[piece] = (1, -score)
    elif _is_run(piece, of_kind):
      # Before all others and the longest first: a run then grows from its left
      # end, which is the longest match that SentencePiece finds.
      ranks[piece] = (0, -len(piece))
  found = []
  for piece, rank in ranks.items():
    for at in range(1, len(piece)):
      left, right = piece[:at], piece[at:]
      if left in ranks and right in ranks:
        found.append((rank, left, right))
  found.sort(key=lambda merge: merge[0])
  return [[left, right] for _, left, right in found]


def _is_run(piece: str, of_kind: int) -> bool:
  """Whether a piece is a user-defined run of spaces.

  Those are found in text only once its spaces have been replaced, too late for
  an added token, so merges must make them.
  """
  return of_kind == sentencepiece_models.Type.USER_DEFINED and set(piece) == {
    sentencepiece_models.SPACE
  }


def _dump(value: Mapping[str, Any]) -> bytes:
  return json.dumps(value, ensure_ascii=False, indent=1).encode('utf-8')


def _write(directory: str, name: str, data: bytes) -> None:
  """Writes a file aside and renames it."""
  path = os.path.join(directory, name)
  with open(f'{path}.part', 'wb') as f:
    f.write(data)
  os.replace(f'{path}.part', path)
