"""Gemma 3 in GGUF files: metadata, and the scale of queries."""

from collections.abc import Mapping
from typing import Any

from kd.core import json_files
from kd.models import file_fields
from kd.models.gemma3 import config as config_lib

ARCHITECTURE = 'gemma3'
_DEFAULTS = {'rope.freq_base_swa': 10_000.0}  # As in llama.cpp.
_LAYERS_OF_27B = 62
_WINDOW = 'attention.sliding_window'
# A period, or a list with an entry per layer.
PATTERN = 'attention.sliding_window_pattern'


def from_metadata(
  metadata: Mapping[str, Any], vocab_size: int, file: str
) -> config_lib.Gemma3Config:
  """Converts metadata; see family.Family.config_from_gguf.

  Missing fields have the same defaults as in llama.cpp; without a window every
  layer is global. No field contains the query scale; see query_factor.

  Args:
    metadata: a header's metadata.
    vocab_size: V, from the embedding.
    file: the path, for messages.

  Returns:
    The config.

  Raises:
    ConfigError: a field is missing or not supported by Gemma 3.
  """
  fields = file_fields.Gguf(file, ARCHITECTURE, metadata, _DEFAULTS)
  for name in ('attn_logit_softcapping', 'final_logit_softcapping'):
    if fields.get(name):
      raise fields.error(name, f'found {fields.get(name)}', 'none')
  # llama.cpp supports at most 512 layers.
  layers = fields.number('block_count', most=file_fields.MAX_LAYERS)
  width = fields.number('embedding_length')
  heads = fields.number('attention.head_count')
  head_dim = fields.number('attention.key_length')
  context = fields.number('context_length')
  kinds, window = _layer_kinds(fields, layers), context
  if fields.has(_WINDOW):
    window = fields.number(_WINDOW)
  else:
    kinds = (config_lib.GLOBAL,) * layers  # As llama.cpp does.
  return config_lib.Gemma3Config(
    embed_dim=width,
    mlp_dim=fields.number('feed_forward_length'),
    num_heads=heads,
    num_kv_heads=fields.kv_heads(*file_fields.GGUF_HEADS),
    head_dim=head_dim,
    vocab_size=vocab_size,
    layer_kinds=kinds,
    window=window,
    context=context,
    query_scale=float(_query_scale(layers, width, heads, head_dim)),
    local_rope_base=fields.number('rope.freq_base_swa', float),
    global_rope_base=fields.number('rope.freq_base', kind=float),
    global_rope_factor=fields.rope_factor(),
    norm_epsilon=file_fields.nearest_decimal(
      fields.number('attention.layer_norm_rms_epsilon', kind=float)
    ),
  )


def _query_scale(layers: int, width: int, heads: int, head_dim: int) -> int:
  """Returns the query scale that llama.cpp assumes for these sizes.

  It assumes that every model of 62 layers is 27B, and divides integers there.
  """
  return width // heads if layers == _LAYERS_OF_27B else head_dim


def query_factor(config: config_lib.Gemma3Config) -> float:
  """Returns the multiplier of queries in a GGUF file for llama.cpp's scale.

  llama.cpp reads no scale from the file. If the model has another one, the norm
  of the queries includes the ratio.
  """
  c = config
  assumed = _query_scale(c.num_layers, c.embed_dim, c.num_heads, c.head_dim)
  return (assumed / c.query_scale) ** 0.5


def to_metadata(config: config_lib.Gemma3Config) -> dict[str, Any]:
  """Returns a model's metadata; see family.Family.config_to_gguf."""
  c = config
  fields = {
    'context_length': c.context,
    'embedding_length': c.embed_dim,
    'block_count': c.num_layers,
    'feed_forward_length': c.mlp_dim,
    'attention.head_count': c.num_heads,
    'attention.layer_norm_rms_epsilon': c.norm_epsilon,
    'attention.key_length': c.head_dim,
    'attention.value_length': c.head_dim,
    'rope.freq_base': c.global_rope_base,
    'attention.head_count_kv': c.num_kv_heads,
  }
  if c.global_rope_factor != 1:
    fields['rope.scaling.type'] = 'linear'
    fields['rope.scaling.factor'] = c.global_rope_factor
  if config_lib.LOCAL not in c.layer_kinds:
    return fields  # llama.cpp aborts on a window without local layers.
  fields[_WINDOW] = c.window
  if c.local_rope_base != _DEFAULTS['rope.freq_base_swa']:
    fields['rope.freq_base_swa'] = c.local_rope_base
  pattern = _pattern(c.layer_kinds)
  if pattern != config_lib.PUBLISHED_PERIOD:
    fields[PATTERN] = pattern
  return fields


def _pattern(kinds: tuple[str, ...]) -> int | list[bool]:
  """Returns the period if there is one, or whether each layer is local."""
  for period in (config_lib.PUBLISHED_PERIOD, *range(2, len(kinds) + 2)):
    if kinds == config_lib.periodic_kinds(len(kinds), period):
      return period
  return [kind == config_lib.LOCAL for kind in kinds]


def _layer_kinds(fields: file_fields.Gguf, layers: int) -> tuple[str, ...]:
  """Parses the pattern: a period, or a list of whether each layer is local."""
  pattern = fields.get(PATTERN)
  if pattern is None:
    return config_lib.published_kinds(layers)
  is_number = isinstance(pattern, int) and not isinstance(pattern, bool)
  if is_number and 0 <= pattern <= file_fields.MAX_SIZE:
    # A period of 0 has no global layer.
    return config_lib.periodic_kinds(layers, pattern or layers + 1)
  is_list = isinstance(pattern, list)
  is_legal = is_list and all(x in (0, 1) for x in pattern)
  # llama.cpp silently treats layers beyond a list's end as global.
  if is_legal and len(pattern) == layers:
    kinds = (config_lib.GLOBAL, config_lib.LOCAL)
    return tuple(kinds[is_local] for is_local in pattern)
  found = f'{len(pattern)} entries' if is_list else json_files.short(pattern)
  raise fields.error(
    PATTERN,
    f'found {found}',
    f'a whole number, or true (local) or false for each of {layers} layers',
  )
