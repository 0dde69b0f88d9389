"""Gemma 3 in Hugging Face's files: config.json and names of tensors.

A `gemma3_text` config (270M, 1B) contains every key. The `text_config` of a
`gemma3` config (4B and up) contains only differences from that class's
published defaults, so there, and only there, missing keys have the published
values.
"""

from collections.abc import Mapping
import re
from typing import Any

from kd.models import file_fields
from kd.models.gemma3 import config as config_lib
from kd.models.gemma3 import vision

MODEL_TYPES = ('gemma3_text', 'gemma3')
_NESTED = MODEL_TYPES[1]

_PUBLISHED = {
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 256,
  'vocab_size': 262_208,
  'query_pre_attn_scalar': 256,
  'rms_norm_eps': 1e-6,
  'max_position_embeddings': 131_072,
  'rope_theta': 1_000_000.0,
  'rope_local_base_freq': 10_000.0,
}

# Optional keys with one legal value.
_FIXED = {
  'hidden_activation': 'gelu_pytorch_tanh',
  'attention_bias': False,
  'tie_word_embeddings': True,
  'use_bidirectional_attention': False,
  'attn_logit_softcapping': None,
  'final_logit_softcapping': None,
}
_KINDS = {
  'sliding_attention': config_lib.LOCAL,
  'full_attention': config_lib.GLOBAL,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


# Names of the text model's tensors: in flat files, in the published 4B, and in
# the 4B from newer transformers. The head is outside of the model.
_TEXT_HEAD = re.compile(r'(?:language_model\.)?(lm_head\.weight)$')
_TEXT = re.compile(
  r'(?:model\.language_model\.|language_model\.model\.|model\.)?'
  r'((?:embed_tokens|layers|norm)\..*)'
)


def text_module(model_type: str) -> str:
  """Returns the path of the text model; see family.Family.hf_text_module."""
  return 'model.language_model' if model_type == _NESTED else 'model'


def key(key_: str, with_vision: bool) -> str | None:
  """Returns the key in a flat file; see family.Family.hf_key."""
  tower_key = vision.key(key_)
  if tower_key is not None:
    return tower_key if with_vision else None
  head = _TEXT_HEAD.match(key_)
  if head:
    return head.group(1)
  match = _TEXT.match(key_)
  return f'model.{match.group(1)}' if match else key_


def file_key(config: config_lib.Gemma3Config, key_: str) -> str:
  """Returns the key in a published file; see Family.hf_file_key."""
  is_text = vision.key(key_) is None
  return f'language_model.{key_}' if config.vision and is_text else key_


def from_dict(raw: Mapping[str, Any], file: str) -> config_lib.Gemma3Config:
  """Converts the contents of config.json; see family.Family.config_from_hf."""
  fields = file_fields.Json(file, raw)
  tower = None
  if raw['model_type'] == _NESTED:
    tower = vision.from_dict(raw, file)
    # Other programs read whether the head is tied at the outer level.
    text = {**fields.object('text_config')}
    if 'tie_word_embeddings' in raw:
      text['tie_word_embeddings'] = raw['tie_word_embeddings']
    fields = file_fields.Json(f'{file}: text_config', text, _PUBLISHED)
  fields.check_fixed(_FIXED)
  global_base, factor, local_base = _rope(fields)
  return config_lib.Gemma3Config(
    embed_dim=fields.number('hidden_size'),
    mlp_dim=fields.number('intermediate_size'),
    num_heads=fields.number('num_attention_heads'),
    num_kv_heads=fields.kv_heads('num_key_value_heads', 'num_attention_heads'),
    head_dim=fields.number('head_dim'),
    vocab_size=fields.number('vocab_size'),
    layer_kinds=_layer_kinds(fields),
    window=fields.number('sliding_window'),
    context=fields.number('max_position_embeddings'),
    query_scale=fields.number('query_pre_attn_scalar', float),
    local_rope_base=local_base,
    global_rope_base=global_base,
    global_rope_factor=factor,
    norm_epsilon=fields.number('rms_norm_eps', float),
    vision=tower,
  )


def _layer_kinds(fields: file_fields.Json) -> tuple[str, ...]:
  """Returns the listed kinds, else by the period, else as published."""
  count = fields.number('num_hidden_layers', most=file_fields.MAX_LAYERS)
  listed = fields.layer_types(count, _KINDS)
  if listed is not None:
    return listed
  for name in ('sliding_window_pattern', '_sliding_window_pattern'):
    if fields.has(name):
      return config_lib.periodic_kinds(count, fields.number(name))
  return config_lib.published_kinds(count)


def _rope(fields: file_fields.Json) -> tuple[float, float, float]:
  """Returns base and factor of global layers, and base of local ones."""
  flat, nested = None, None
  is_flat = any(
    fields.has(k)
    for k in ('rope_theta', 'rope_local_base_freq', 'rope_scaling')
  )
  if is_flat or not fields.has('rope_parameters'):
    factor = 1.0
    if fields.has('rope_scaling'):
      factor = file_fields.rope_factor(
        fields, 'rope_scaling', fields.values['rope_scaling']
      )
    flat = (
      fields.number('rope_theta', float),
      factor,
      fields.number('rope_local_base_freq', float),
    )
  if fields.has('rope_parameters'):
    nested = _nested_rope(fields)
  if flat and nested and flat != nested:
    raise fields.error(
      'rope_parameters',
      f'has (base, factor, local base) {nested}, but rope_theta, '
      f'rope_scaling and rope_local_base_freq have {flat}',
      legal='the same in both forms, or only one of them',
    )
  return nested or flat


def _nested_rope(fields: file_fields.Json) -> tuple[float, float, float]:
  """Returns the same from `rope_parameters`, a dict for each type."""
  bases, factors = {}, {}
  for name, kind in _KINDS.items():
    key = f'rope_parameters.{name}'
    part = fields.object('rope_parameters').get(name)
    if not isinstance(part, dict):
      raise fields.error(key, 'missing', legal='an object with rope_theta')
    values = file_fields.Json(fields.path(key), part)
    bases[kind] = values.number('rope_theta', float)
    factors[kind] = file_fields.rope_factor(fields, key, part)
  if factors[config_lib.LOCAL] != 1:
    raise fields.error(
      'rope_parameters.sliding_attention',
      f'factor {factors[config_lib.LOCAL]}',
      legal='1: no scaling',
    )
  return (
    bases[config_lib.GLOBAL],
    factors[config_lib.GLOBAL],
    bases[config_lib.LOCAL],
  )


def problem(config: config_lib.Gemma3Config) -> str:
  """Returns why transformers rejects the sizes, or ''; see family.Family."""
  if config.embed_dim % config.num_heads:
    return (
      f'the embedding width, {config.embed_dim}, is not a multiple of the '
      f'number of query heads, {config.num_heads}'
    )
  if not float(config.query_scale).is_integer():
    return f'the query scale, {config.query_scale:g}, is not an integer'
  return ''


def to_dict(config: config_lib.Gemma3Config) -> dict[str, Any]:
  """Returns the keys of a config.json; see family.Family.config_to_hf."""
  text = _text_dict(config)
  if config.vision is None:
    return text
  return {
    'architectures': ['Gemma3ForConditionalGeneration'],
    'model_type': _NESTED,
    'tie_word_embeddings': True,
    'text_config': {k: v for k, v in text.items() if k != 'architectures'},
    **vision.to_dict(config.vision),
  }


def _text_dict(config):
  """Returns the keys of a flat config.json.

  Rotary bases and scaling are written in both the old and the new form, for all
  versions of transformers and for vLLM.
  """
  c = config
  scaling = None
  full = {'rope_type': 'default'}
  if c.global_rope_factor != 1:
    scaling = {'rope_type': 'linear', 'factor': c.global_rope_factor}
    full = dict(scaling)
  values = {
    'architectures': ['Gemma3ForCausalLM'],
    'model_type': 'gemma3_text',
    **_FIXED,
    'head_dim': c.head_dim,
    'hidden_size': c.embed_dim,
    'intermediate_size': c.mlp_dim,
    'layer_types': [_NAMES[kind] for kind in c.layer_kinds],
    'max_position_embeddings': c.context,
    'num_attention_heads': c.num_heads,
    'num_hidden_layers': c.num_layers,
    'num_key_value_heads': c.num_kv_heads,
    'query_pre_attn_scalar': _whole(c.query_scale),
    'rms_norm_eps': c.norm_epsilon,
    'rope_local_base_freq': c.local_rope_base,
    'rope_parameters': {
      'full_attention': full | {'rope_theta': c.global_rope_base},
      'sliding_attention': {
        'rope_type': 'default',
        'rope_theta': c.local_rope_base,
      },
    },
    'rope_scaling': scaling,
    'rope_theta': c.global_rope_base,
    'sliding_window': c.window,
    'vocab_size': c.vocab_size,
  }
  for p in range(1, c.num_layers + 1):
    if c.layer_kinds == config_lib.periodic_kinds(c.num_layers, p):
      values['sliding_window_pattern'] = p  # For readers without layer_types.
      break
  return values


def _whole(x: float) -> int | float:
  """Returns an int if x is whole, since transformers rejects 256.0 here."""
  return int(x) if x == int(x) else x
