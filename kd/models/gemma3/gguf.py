"""Gemma 3 in GGUF files: metadata."""

from collections.abc import Mapping
from typing import Any

from kd.core import json_files
from kd.models import file_fields
from kd.models.gemma3 import config as config_lib

ARCHITECTURE = 'gemma3'
_DEFAULTS = {'rope.freq_base_swa': 10_000.0}  # As in llama.cpp.
_LAYERS_OF_27B = 62
# A period, or a list with an entry per layer.
PATTERN = 'attention.sliding_window_pattern'


def from_metadata(
  metadata: Mapping[str, Any], vocab_size: int, file: str
) -> config_lib.Gemma3Config:
  """Converts metadata; see family.Family.config_from_gguf.

  A missing field means what it means to llama.cpp. No field holds the query
  scale: it is D / N in 27B and the head width elsewhere.

  Args:
    metadata: a header's metadata.
    vocab_size: V, from the embedding.
    file: the path, for messages.

  Returns:
    The config.

  Raises:
    ConfigError: a field is missing, or asks for what Gemma 3 lacks.
  """
  fields = file_fields.Gguf(file, ARCHITECTURE, metadata, _DEFAULTS)
  for name in ('attn_logit_softcapping', 'final_logit_softcapping'):
    if fields.get(name):
      raise fields.error(name, f'found {fields.get(name)}', 'none')
  # llama.cpp reads 512 layers at most.
  layers = fields.number('block_count', most=file_fields.MOST_LAYERS)
  width = fields.number('embedding_length')
  heads = fields.number('attention.head_count')
  head_dim = fields.number('attention.key_length')
  query_scale = head_dim if layers != _LAYERS_OF_27B else width / heads
  return config_lib.Gemma3Config(
    embed_dim=width,
    mlp_dim=fields.number('feed_forward_length'),
    num_heads=heads,
    num_kv_heads=fields.kv_heads(*file_fields.GGUF_HEADS),
    head_dim=head_dim,
    vocab_size=vocab_size,
    layer_kinds=_layer_kinds(fields, layers),
    window=fields.number('attention.sliding_window'),
    context=fields.number('context_length'),
    query_scale=float(query_scale),
    local_rope_base=fields.number('rope.freq_base_swa', float),
    global_rope_base=fields.number('rope.freq_base', kind=float),
    global_rope_factor=fields.rope_factor(),
    norm_epsilon=file_fields.nearest_decimal(
      fields.number('attention.layer_norm_rms_epsilon', kind=float)
    ),
  )


def _layer_kinds(fields: file_fields.Gguf, layers: int) -> tuple[str, ...]:
  """Reads the pattern: a period, or a list that says which layers are local."""
  pattern = fields.get(PATTERN)
  if pattern is None:
    return config_lib.published_kinds(layers)
  is_number = isinstance(pattern, int) and not isinstance(pattern, bool)
  if is_number and 0 <= pattern <= file_fields.MOST:
    # A period of 0 has no global layer.
    return config_lib.periodic_kinds(layers, pattern or layers + 1)
  is_list = isinstance(pattern, list)
  is_legal = is_list and all(x in (0, 1) for x in pattern)
  # llama.cpp takes layers beyond a list's end to be global, without a word.
  if is_legal and len(pattern) == layers:
    kinds = (config_lib.GLOBAL, config_lib.LOCAL)
    return tuple(kinds[is_local] for is_local in pattern)
  found = f'{len(pattern)} entries' if is_list else json_files.short(pattern)
  raise fields.error(
    PATTERN,
    f'found {found}',
    f'a whole number, or true (local) or false for each of {layers} layers',
  )
