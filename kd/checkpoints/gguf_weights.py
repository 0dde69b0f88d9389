"""Gemma 3 from a GGUF file: sizes from its metadata, tensors dequantised."""

from typing import Any

import gguf
import numpy as np

from kd.checkpoints import gguf_parts
from kd.checkpoints import names
from kd.checkpoints import sizes
from kd.core import errors
from kd.core import json_files
from kd.models import gemma3_config

ARCHITECTURE = 'gemma3'
_LOCAL_ROPE_BASE = 10_000.0  # llama.cpp's default of rope.freq_base_swa.
_LAYERS_OF_27B = 62

# Bytes of one piece that is dequantised at a time.
_PIECE_BYTES = 16 * 2**20


class Source:
  """A GGUF model's tensors, read and dequantised one at a time.

  Attributes:
    file: its path, or that of one of its parts.
    layout: names.GGUF.
    config: the model in it.
    shapes: each tensor's shape by name, outermost dimension first.
    skipped: names of tensors that are no part of a text model; always empty.
  """

  layout = names.GGUF
  skipped = ()

  def __init__(self, file: str):
    """Reads the header, of all parts if the model is split.

    Args:
      file: a GGUF file, or any part of a split one.

    Raises:
      ConfigError: it is no GGUF file of a Gemma 3, or holds a tensor of a type
        that the `gguf` package doesn't dequantise.
    """
    self.file = file
    header = gguf_parts.read(file)
    self._tensors = header.tensors
    if 'token_embd.weight' not in self._tensors:
      raise errors.ConfigError(file, 'has no tensor token_embd.weight')
    vocab_size = self._tensors['token_embd.weight'].shape[0]
    self.config = config_from_metadata(header.metadata, vocab_size, file)
    self.shapes = {name: e.shape for name, e in self._tensors.items()}
    for name, entry in self._tensors.items():
      _check_kind(f'{entry.file}: {name}', entry.kind)

  def check_head(self) -> None:
    """Does nothing: `output.weight` is no part of the model."""

  def read(self, name: str) -> np.ndarray:
    """Reads a tensor, as float32, in the file's layout."""
    entry = self._tensors[name]
    rows, row_bytes = entry.byte_shape
    raw = np.memmap(entry.file, np.uint8, 'r', entry.offset, (rows, row_bytes))
    result = np.empty((rows, entry.shape[-1]), np.float32)
    step = max(1, _PIECE_BYTES // row_bytes)
    for i in range(0, rows, step):
      result[i : i + step] = gguf.dequantize(raw[i : i + step], entry.kind)
    return result.reshape(entry.shape)


def _check_kind(path: str, kind: gguf.GGMLQuantizationType) -> None:
  _, size = gguf.GGML_QUANT_SIZES[kind]
  try:
    # Asks the package itself, with one block of zeros.
    gguf.dequantize(np.zeros((1, size), np.uint8), kind)
  except NotImplementedError as e:
    raise errors.ConfigError(
      path,
      f'has type {kind.name}',
      legal='a type that the gguf package dequantises',
    ) from e


class _Fields:
  """The metadata of one architecture; an error names the file and the key."""

  def __init__(self, file: str, metadata: dict[str, Any]):
    self._file = file
    self._metadata = metadata

  def path(self, name: str) -> str:
    """Returns what messages call the field."""
    return f'{self._file}: {ARCHITECTURE}.{name}'

  def error(self, name: str, found: str, legal: str) -> errors.ConfigError:
    return errors.ConfigError(self.path(name), found, legal=legal)

  def get(self, name: str) -> Any:
    """Returns the field, or None if the file has no such field."""
    key = f'{ARCHITECTURE}.{name}'
    return self._metadata[key] if key in self._metadata else None

  def number(
    self,
    name: str,
    default: float | None = None,
    kind: type = int,
    most: float = sizes.MOST,
  ) -> Any:
    """Returns the number of a field, above 0, or `default`."""
    value = self.get(name)
    value = default if value is None else value
    return sizes.number(value, self.path(name), kind, most)


def config_from_metadata(
  metadata: dict[str, Any], vocab_size: int, file: str
) -> gemma3_config.Gemma3Config:
  """Converts a header's metadata to the model's sizes and constants.

  Fields that the file lacks mean what they mean to llama.cpp; so does the query
  scale, of which no field tells: D / N in 27B and the head width elsewhere.

  Args:
    metadata: a header's metadata.
    vocab_size: V, from the embedding.
    file: the path, for messages.

  Returns:
    The config.

  Raises:
    ConfigError: another architecture, a missing field, or one that asks for
      what Gemma 3 does not have.
  """
  key = 'general.architecture'
  found = metadata[key] if key in metadata else None
  if found != ARCHITECTURE:
    raise errors.ConfigError(
      f'{file}: {key}', f'found {found!r}', legal=repr(ARCHITECTURE)
    )
  fields = _Fields(file, metadata)
  for name in ('attn_logit_softcapping', 'final_logit_softcapping'):
    if fields.get(name):
      raise fields.error(name, f'found {fields.get(name)}', 'none')
  # llama.cpp reads 512 layers at most.
  layers = fields.number('block_count', most=sizes.MOST_LAYERS)
  width = fields.number('embedding_length')
  heads = fields.number('attention.head_count')
  head_dim = fields.number('attention.key_length')
  kv_heads = fields.number('attention.head_count_kv')
  sizes.check_kv_heads(
    heads,
    kv_heads,
    fields.path('attention.head_count_kv'),
    'attention.head_count',
  )
  query_scale = head_dim if layers != _LAYERS_OF_27B else width / heads
  return gemma3_config.Gemma3Config(
    embed_dim=width,
    mlp_dim=fields.number('feed_forward_length'),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
    vocab_size=vocab_size,
    layer_kinds=_layer_kinds(fields, layers),
    window=fields.number('attention.sliding_window'),
    context=fields.number('context_length'),
    query_scale=float(query_scale),
    local_rope_base=fields.number(
      'rope.freq_base_swa', _LOCAL_ROPE_BASE, float
    ),
    global_rope_base=fields.number('rope.freq_base', kind=float),
    global_rope_factor=_rope_factor(fields),
    norm_epsilon=_nearest_decimal(
      fields.number('attention.layer_norm_rms_epsilon', kind=float)
    ),
  )


def _layer_kinds(fields: _Fields, layers: int) -> tuple[str, ...]:
  """Reads the pattern: a period, or a list that says which layers are local."""
  name = 'attention.sliding_window_pattern'
  pattern = fields.get(name)
  if pattern is None:
    return gemma3_config.published_kinds(layers)
  is_number = isinstance(pattern, int) and not isinstance(pattern, bool)
  if is_number and 0 <= pattern <= sizes.MOST:
    # A period of 0 has no global layer.
    return gemma3_config.periodic_kinds(layers, pattern or layers + 1)
  is_list = isinstance(pattern, list)
  is_legal = is_list and all(x in (0, 1) for x in pattern)
  # llama.cpp takes layers beyond a list's end to be global, without a word.
  if is_legal and len(pattern) == layers:
    kinds = (gemma3_config.GLOBAL, gemma3_config.LOCAL)
    return tuple(kinds[is_local] for is_local in pattern)
  found = f'{len(pattern)} entries' if is_list else json_files.short(pattern)
  raise fields.error(
    name,
    f'found {found}',
    f'a whole number, or true (local) or false for each of {layers} layers',
  )


def _rope_factor(fields: _Fields) -> float:
  """Reads the factor that positions of global layers are divided by.

  A factor without a type is linear; `rope.scale_linear` is its older name.
  """
  kind = fields.get('rope.scaling.type')
  if kind not in (None, 'none', 'linear'):
    raise fields.error(
      'rope.scaling.type',
      f'found {json_files.short(kind)}',
      'none, linear',
    )
  if kind == 'none':
    return 1.0
  for name in ('rope.scaling.factor', 'rope.scale_linear'):
    if fields.get(name) is not None:
      return fields.number(name, kind=float)
  if kind == 'linear':
    fields.number('rope.scaling.factor', kind=float)  # Says that it is missing.
  return 1.0


def _nearest_decimal(x: float) -> float:
  """The decimal that a float32 was written from: 1e-6, not 9.99999997e-7."""
  return float(str(np.float32(x)))
