"""Qwen3 in GGUF files: metadata."""

from collections.abc import Mapping
from typing import Any

from kd.models import file_fields
from kd.models.qwen3 import config as config_lib

ARCHITECTURE = 'qwen3'
HEAD = 'output.weight'


def from_metadata(
  metadata: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  file: str,
) -> config_lib.Qwen3Config:
  """Converts a header; see family.Family.config_from_gguf.

  Without a separate output embedding the head is tied, as in llama.cpp.
  """
  fields = file_fields.Gguf(file, ARCHITECTURE, metadata)
  factor = fields.rope_factor()
  if factor != 1:
    raise fields.error('rope.scaling.factor', f'found {factor}', '1')
  return config_lib.Qwen3Config(
    embed_dim=fields.number('embedding_length'),
    mlp_dim=fields.number('feed_forward_length'),
    num_heads=fields.number('attention.head_count'),
    num_kv_heads=fields.kv_heads(*file_fields.GGUF_HEADS),
    head_dim=fields.number('attention.key_length'),
    vocab_size=shapes['token_embd.weight'][0],
    num_layers=fields.number('block_count', most=file_fields.MAX_LAYERS),
    context=fields.number('context_length'),
    rope_base=fields.number('rope.freq_base', kind=float),
    norm_epsilon=file_fields.nearest_decimal(
      fields.number('attention.layer_norm_rms_epsilon', kind=float)
    ),
    tied=HEAD not in shapes,
  )


def to_metadata(config: config_lib.Qwen3Config) -> dict[str, Any]:
  """Returns a model's metadata; see family.Family.config_to_gguf."""
  c = config
  return {
    'context_length': c.context,
    'embedding_length': c.embed_dim,
    'block_count': c.num_layers,
    'feed_forward_length': c.mlp_dim,
    'attention.head_count': c.num_heads,
    'attention.head_count_kv': c.num_kv_heads,
    'rope.freq_base': c.rope_base,
    'attention.layer_norm_rms_epsilon': c.norm_epsilon,
    'attention.key_length': c.head_dim,
    'attention.value_length': c.head_dim,
  }
