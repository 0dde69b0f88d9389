"""Gemma 3 from a GGUF file: sizes from its metadata, tensors dequantised."""

import gguf
import numpy as np

from kd.checkpoints import gguf_header
from kd.checkpoints import names
from kd.core import errors
from kd.models import gemma3_config

ARCHITECTURE = 'gemma3'
_LOCAL_ROPE_BASE = 10_000.0  # No field has it: readers know it.
_LAYERS_OF_27B = 62

# Bytes of one piece that is dequantised at a time.
_PIECE_BYTES = 16 * 2**20


class Source:
  """A GGUF file's tensors, read and dequantised one at a time.

  Attributes:
    file: its path.
    layout: names.GGUF.
    config: the model in it.
    shapes: each tensor's shape by name, outermost dimension first.
    skipped: names of tensors that are no part of a text model; always empty.
  """

  layout = names.GGUF
  skipped = ()

  def __init__(self, file: str):
    """Reads the header.

    Args:
      file: a GGUF file.

    Raises:
      ConfigError: it is no GGUF file of a Gemma 3, or holds a tensor of a type
        that the `gguf` package doesn't dequantise.
    """
    self.file = file
    header = gguf_header.read(file)
    self._tensors = header.tensors
    if 'token_embd.weight' not in self._tensors:
      raise errors.ConfigError(file, 'has no tensor token_embd.weight')
    vocab_size = self._tensors['token_embd.weight'].shape[0]
    self.config = config_from_metadata(header.metadata, vocab_size, file)
    self.shapes = {name: e.shape for name, e in self._tensors.items()}
    for name, entry in self._tensors.items():
      _check_kind(f'{file}: {name}', entry.kind)

  def read(self, name: str) -> np.ndarray:
    """A tensor, float32, in the file's layout."""
    entry = self._tensors[name]
    rows, row_bytes = entry.byte_shape
    raw = np.memmap(self.file, np.uint8, 'r', entry.offset, (rows, row_bytes))
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


def config_from_metadata(
  metadata: dict, vocab_size: int, file: str
) -> gemma3_config.Gemma3Config:
  """The model's sizes and constants.

  What no field of the file has is as llama.cpp has it: the local rotary base,
  and the query scale, D / N in 27B and the head width elsewhere.

  Args:
    metadata: a header's metadata.
    vocab_size: V, from the embedding.
    file: the path, for messages.

  Returns:
    The config.

  Raises:
    ConfigError: another architecture, a missing field, or one that asks for
      what Gemma 3 has not.
  """

  def fail(key, found, legal=''):
    raise errors.ConfigError(f'{file}: {key}', found, legal=legal)

  def number(name):
    key = f'{ARCHITECTURE}.{name}'
    if key not in metadata:
      fail(key, 'missing', 'a positive number')
    if not metadata[key] > 0:
      fail(key, f'found {metadata[key]!r}', 'a positive number')
    return metadata[key]

  def has(name):
    return f'{ARCHITECTURE}.{name}' in metadata

  found = metadata.get('general.architecture')
  if found != ARCHITECTURE:
    fail('general.architecture', f'found {found!r}', repr(ARCHITECTURE))
  for name in ('attn_logit_softcapping', 'final_logit_softcapping'):
    if has(name) and metadata[f'{ARCHITECTURE}.{name}']:
      fail(f'{ARCHITECTURE}.{name}', f'found {number(name)}', 'none')
  layers, width = number('block_count'), number('embedding_length')
  heads, kv_heads = (
    number('attention.head_count'),
    number('attention.head_count_kv'),
  )
  head_dim = number('attention.key_length')
  query_scale = head_dim if layers != _LAYERS_OF_27B else width / heads
  factor = 1.0
  if has('rope.scaling.type'):
    kind = metadata[f'{ARCHITECTURE}.rope.scaling.type']
    if kind not in ('none', 'linear'):
      fail(
        f'{ARCHITECTURE}.rope.scaling.type', f'found {kind!r}', 'none, linear'
      )
    if kind == 'linear':
      factor = number('rope.scaling.factor')
  local = _LOCAL_ROPE_BASE
  if has('rope.freq_base_swa'):
    local = number('rope.freq_base_swa')
  return gemma3_config.Gemma3Config(
    embed_dim=width,
    mlp_dim=number('feed_forward_length'),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
    vocab_size=vocab_size,
    layer_kinds=gemma3_config.published_kinds(layers),
    window=number('attention.sliding_window'),
    context=number('context_length'),
    query_scale=float(query_scale),
    local_rope_base=float(local),
    global_rope_base=float(number('rope.freq_base')),
    global_rope_factor=float(factor),
    norm_epsilon=_nearest_decimal(number('attention.layer_norm_rms_epsilon')),
  )


def _nearest_decimal(x: float) -> float:
  """The decimal that a float32 was written from: 1e-6, not 9.99999997e-7."""
  return float(str(np.float32(x)))
