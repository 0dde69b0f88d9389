"""Gemma3Config from and to the `config.json` of a Hugging Face directory.

A `gemma3_text` file (270M, 1B) holds every key. A `gemma3` file (4B and up)
holds under `text_config` what differs from that class's published defaults, so
there, and only there, a missing key means the published value.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from kd.checkpoints import sizes
from kd.core import errors
from kd.core import json_files
from kd.models import gemma3_config

FILE = 'config.json'

MODEL_TYPES = ('gemma3_text', 'gemma3')
ACTIVATION = 'gelu_pytorch_tanh'

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

# What Gemma 3 has in one way only; the key may be absent.
_FIXED = {
  'hidden_activation': ACTIVATION,
  'attention_bias': False,
  'tie_word_embeddings': True,
  'use_bidirectional_attention': False,
  'attn_logit_softcapping': None,
  'final_logit_softcapping': None,
}
_KINDS = {
  'sliding_attention': gemma3_config.LOCAL,
  'full_attention': gemma3_config.GLOBAL,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class _Fields:
  """The text model's fields; an error names the file and the key."""

  def __init__(
    self, file: str, values: Mapping[str, Any], defaults: Mapping[str, Any]
  ):
    self.file = file
    self.values = values
    self.defaults = defaults

  def error(self, key: str, found: str, legal: str = '') -> errors.ConfigError:
    return errors.ConfigError(f'{self.file}: {key}', found, legal=legal)

  def has(self, key: str) -> bool:
    return self.values.get(key) is not None

  def number(self, key: str, kind: type = int, most: float = sizes.MOST) -> Any:
    """Returns the number at `key`, above 0 and at most `most`."""
    value = self.values[key] if self.has(key) else self.defaults.get(key)
    return sizes.number(value, f'{self.file}: {key}', kind, most)

  def object(self, key: str) -> Mapping[str, Any]:
    """Returns the object at `key`."""
    value = self.values.get(key)
    if not isinstance(value, dict):
      found = 'missing' if value is None else f'found {json_files.short(value)}'
      raise self.error(key, found, legal='an object')
    return value


def read(directory: str) -> gemma3_config.Gemma3Config:
  """Reads DIRECTORY/config.json.

  Args:
    directory: a Hugging Face model directory.

  Returns:
    The model's sizes and constants, as the file says.

  Raises:
    ConfigError: the file is missing, is no JSON object, describes another
      model, or has a key missing, wrong or asking for what Gemma 3 has not.
  """
  file = os.path.join(directory, FILE)
  if not os.path.isfile(file):
    raise errors.ConfigError(
      file, 'no such file', legal='a Hugging Face model directory'
    )
  return from_dict(json_files.read(file), file)


def from_dict(raw: Mapping[str, Any], file: str) -> gemma3_config.Gemma3Config:
  """Converts the contents of `config.json`; see read."""
  fields = _Fields(file, raw, {})
  if 'model_type' not in raw:
    raise fields.error('model_type', 'missing', legal=', '.join(MODEL_TYPES))
  if raw['model_type'] not in MODEL_TYPES:
    raise errors.unknown(
      f'{file}: model_type',
      'model type',
      json_files.short(raw['model_type']).strip("'"),
      MODEL_TYPES,
    )
  if raw['model_type'] == 'gemma3':
    # The head is tied at the outer level, where readers look.
    text = {**fields.object('text_config')}
    if 'tie_word_embeddings' in raw:
      text['tie_word_embeddings'] = raw['tie_word_embeddings']
    fields = _Fields(f'{file}: text_config', text, _PUBLISHED)
  for key, legal in _FIXED.items():
    # Null is as good as false.
    if key in fields.values and (fields.values[key] or None) != (legal or None):
      found = json_files.short(fields.values[key])
      raise fields.error(key, f'found {found}', repr(legal))
  global_base, factor, local_base = _rope(fields)
  heads, kv_heads = (
    fields.number('num_attention_heads'),
    fields.number('num_key_value_heads'),
  )
  sizes.check_kv_heads(
    heads,
    kv_heads,
    f'{fields.file}: num_key_value_heads',
    'num_attention_heads',
  )
  return gemma3_config.Gemma3Config(
    embed_dim=fields.number('hidden_size'),
    mlp_dim=fields.number('intermediate_size'),
    num_heads=heads,
    num_kv_heads=kv_heads,
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
  )


def _layer_kinds(fields: _Fields) -> tuple[str, ...]:
  """Kinds: as listed, else by the pattern's length, else as published."""
  count = fields.number('num_hidden_layers', most=sizes.MOST_LAYERS)
  if fields.has('layer_types'):
    listed = fields.values['layer_types']
    if not isinstance(listed, list):
      found = f'found {json_files.short(listed)}'
      raise fields.error('layer_types', found, legal='a list')
    for name in listed:
      if not isinstance(name, str) or name not in _KINDS:
        raise errors.unknown(
          f'{fields.file}: layer_types',
          'type',
          json_files.short(name).strip("'"),
          list(_KINDS),
        )
    if len(listed) != count:
      raise fields.error(
        'layer_types',
        f'{len(listed)} entries',
        legal=f'num_hidden_layers = {count} entries',
      )
    return tuple(_KINDS[name] for name in listed)
  for key in ('sliding_window_pattern', '_sliding_window_pattern'):
    if fields.has(key):
      return gemma3_config.periodic_kinds(count, fields.number(key))
  return gemma3_config.published_kinds(count)


def _scaling(fields: _Fields, key: str, scaling: Any) -> float:
  """Returns the factor that positions are divided by, from a rope dict."""
  types = []
  if isinstance(scaling, dict):
    types = [scaling[k] for k in ('rope_type', 'type') if k in scaling]
    if types in ([], ['default']) and 'factor' not in scaling:
      return 1.0
  if not types or any(kind != 'linear' for kind in types):
    raise fields.error(
      key,
      f'found {json_files.short(scaling)}',
      legal="rope_type 'default', or 'linear' with a factor",
    )
  return _Fields(f'{fields.file}: {key}', scaling, {}).number('factor', float)


def _rope(fields: _Fields) -> tuple[float, float, float]:
  """Base and factor of global layers, and base of local ones."""
  flat, nested = None, None
  is_flat = any(
    fields.has(k)
    for k in ('rope_theta', 'rope_local_base_freq', 'rope_scaling')
  )
  if is_flat or not fields.has('rope_parameters'):
    factor = 1.0
    if fields.has('rope_scaling'):
      factor = _scaling(fields, 'rope_scaling', fields.values['rope_scaling'])
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
      f'says (base, factor, local base) {nested}, but rope_theta, '
      f'rope_scaling and rope_local_base_freq say {flat}',
      legal='the same in both forms, or only one of them',
    )
  return nested or flat


def _nested_rope(fields: _Fields) -> tuple[float, float, float]:
  """The same from `rope_parameters`, which has a dict for each type."""
  bases, factors = {}, {}
  for name, kind in _KINDS.items():
    key = f'rope_parameters.{name}'
    part = fields.object('rope_parameters').get(name)
    if not isinstance(part, dict):
      raise fields.error(key, 'missing', legal='an object with rope_theta')
    values = _Fields(f'{fields.file}: {key}', part, {})
    bases[kind] = values.number('rope_theta', float)
    factors[kind] = _scaling(fields, key, part)
  if factors[gemma3_config.LOCAL] != 1:
    raise fields.error(
      'rope_parameters.sliding_attention',
      f'factor {factors[gemma3_config.LOCAL]}',
      legal='1: no scaling',
    )
  return (
    bases[gemma3_config.GLOBAL],
    factors[gemma3_config.GLOBAL],
    bases[gemma3_config.LOCAL],
  )


def to_dict(
  config: gemma3_config.Gemma3Config,
  dtype: str,
  bos_id: int,
  eos_ids: Sequence[int],
  pad_id: int,
) -> dict[str, Any]:
  """The flat `config.json` that says the same.

  Rotary bases and scaling are written in the old form and in the new one, so
  that each version of transformers, and vLLM, finds the one that it reads.

  Args:
    config: the model.
    dtype: type of the model's tensors, 'bfloat16' or 'float32'.
    bos_id: begins every text.
    eos_ids: ids that end generation: EOS, then end of turn.
    pad_id: id of padding.

  Returns:
    JSON values.
  """
  c = config
  scaling = None
  full = {'rope_type': 'default'}
  if c.global_rope_factor != 1:
    scaling = {'rope_type': 'linear', 'factor': c.global_rope_factor}
    full = dict(scaling)
  found = {
    'architectures': ['Gemma3ForCausalLM'],
    'model_type': 'gemma3_text',
    **_FIXED,
    'attention_dropout': 0.0,
    'bos_token_id': bos_id,
    'eos_token_id': list(eos_ids),
    'pad_token_id': pad_id,
    'head_dim': c.head_dim,
    'hidden_size': c.embed_dim,
    'initializer_range': 0.02,
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
    'torch_dtype': dtype,
    'use_cache': True,
    'vocab_size': c.vocab_size,
  }
  for p in range(1, c.num_layers + 1):
    if c.layer_kinds == gemma3_config.periodic_kinds(c.num_layers, p):
      found['sliding_window_pattern'] = p  # For readers without layer_types.
      break
  return found


def _whole(x: float) -> int | float:
  """An int where there is one: transformers refuses 256.0 here."""
  return int(x) if x == int(x) else x


def to_json(values: Mapping[str, Any]) -> str:
  """The text of a JSON file, the same for equal values."""
  return json.dumps(values, indent=2, sort_keys=True) + '\n'
