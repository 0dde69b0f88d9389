"""Qwen3 in Hugging Face's files: config.json."""

from collections.abc import Mapping
from typing import Any

from kd.models import file_fields
from kd.models.qwen3 import config as config_lib

MODEL_TYPES = ('qwen3',)

# Optional keys with one legal value.
_FIXED = {
  'hidden_act': 'silu',
  'attention_bias': False,
  'use_sliding_window': False,
}
_KINDS = {'full_attention': config_lib.FULL}
# The defaults of transformers for missing keys.
_DEFAULTS = {'head_dim': 128}


def from_dict(raw: Mapping[str, Any], file: str) -> config_lib.Qwen3Config:
  """Converts the contents of config.json; see family.Family.config_from_hf."""
  fields = file_fields.Json(file, raw, _DEFAULTS)
  fields.check_fixed(_FIXED)
  layers = fields.number('num_hidden_layers', most=file_fields.MAX_LAYERS)
  fields.layer_types(layers, _KINDS)
  return config_lib.Qwen3Config(
    embed_dim=fields.number('hidden_size'),
    mlp_dim=fields.number('intermediate_size'),
    num_heads=fields.number('num_attention_heads'),
    num_kv_heads=fields.kv_heads('num_key_value_heads', 'num_attention_heads'),
    head_dim=fields.number('head_dim'),
    vocab_size=fields.number('vocab_size'),
    num_layers=layers,
    context=fields.number('max_position_embeddings'),
    rope_base=_rope_base(fields),
    norm_epsilon=fields.number('rms_norm_eps', float),
    tied=_tied(fields),
  )


def _tied(fields):
  """Returns whether the head is tied; a missing key means that it is not."""
  key = 'tie_word_embeddings'
  value = fields.values.get(key) or False
  if not isinstance(value, bool):
    raise fields.error(key, f'found {value!r}', 'true, false')
  return value


def _rope_base(fields):
  """Returns the base, from `rope_theta` or from `rope_parameters`."""
  bases = {}
  if fields.has('rope_theta') or not fields.has('rope_parameters'):
    bases['rope_theta'] = fields.number('rope_theta', float)
  if fields.has('rope_scaling'):
    _check_scaling(fields, 'rope_scaling', fields.values['rope_scaling'])
  if fields.has('rope_parameters'):
    key = 'rope_parameters'
    nested = file_fields.Json(fields.path(key), fields.object(key))
    bases[key] = nested.number('rope_theta', float)
    _check_scaling(fields, key, nested.values)
  if len(set(bases.values())) > 1:
    raise fields.error(
      'rope_parameters',
      f'has rope_theta {bases["rope_parameters"]}, but the top-level '
      f'rope_theta is {bases["rope_theta"]}',
      'the same in both forms, or only one of them',
    )
  return next(iter(bases.values()))


def _check_scaling(fields, key, scaling):
  factor = file_fields.rope_factor(fields, key, scaling)
  if factor != 1:
    raise fields.error(key, f'factor {factor}', '1: no scaling')


def to_dict(config: config_lib.Qwen3Config) -> dict[str, Any]:
  """Returns the keys of config.json; see family.Family.config_to_hf.

  The rotary base is written in both the old and the new form, for old and new
  versions of transformers.
  """
  c = config
  return {
    'architectures': ['Qwen3ForCausalLM'],
    'model_type': MODEL_TYPES[0],
    **_FIXED,
    'head_dim': c.head_dim,
    'hidden_size': c.embed_dim,
    'intermediate_size': c.mlp_dim,
    'max_position_embeddings': c.context,
    'max_window_layers': c.num_layers,
    'num_attention_heads': c.num_heads,
    'num_hidden_layers': c.num_layers,
    'num_key_value_heads': c.num_kv_heads,
    'rms_norm_eps': c.norm_epsilon,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': c.rope_base},
    'rope_scaling': None,
    'rope_theta': c.rope_base,
    'sliding_window': None,
    'tie_word_embeddings': c.tied,
    'vocab_size': c.vocab_size,
  }
