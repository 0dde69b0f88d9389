"""The vision tower of Gemma 3 in Hugging Face's and GGUF's files."""

from collections.abc import Mapping
import re
from typing import Any

from kd.core import errors
from kd.models import file_fields
from kd.models import tensors as tensors_lib
from kd.models.vision import config as config_lib

_Entry = tensors_lib.Entry
_PREFIX = 'vision_tower.vision_model.'
_PROJECTOR = 'multi_modal_projector.'
# The published files name the tower `vision_tower.vision_model`. Newer versions
# of transformers write `model.vision_tower`, without `vision_model`.
_TOWER_KEY = re.compile(r'(?:model\.)?vision_tower\.(?:vision_model\.)?(.*)')
_PROJECTOR_KEY = re.compile(r'(?:model\.)?multi_modal_projector\.(.*)')

_PUBLISHED = {
  'image_size': 896,
  'patch_size': 14,
  'hidden_size': 1152,
  'intermediate_size': 4304,
  'num_attention_heads': 16,
  'num_hidden_layers': 27,
  'layer_norm_eps': 1e-6,
}
# Optional keys with one legal value.
_FIXED = {
  'hidden_act': 'gelu_pytorch_tanh',
  'num_channels': 3,
  'vision_use_head': False,
}
_IMAGE_TOKENS = 'mm_tokens_per_image'
_PUBLISHED_IMAGE_TOKENS = 256
# Mean and deviation by color, of values from 0 to 1.
_MIDDLE = [0.5, 0.5, 0.5]
_PUBLISHED_SQUARE = 4  # Patches along a side of a soft token.
_PROJECTOR_TYPE = 'clip.projector_type'
_SQUARE = 'projector.scale_factor'


def _with_bias(path, hf, gguf, dims, inputs=0, file_inputs=''):
  """Returns the entries of a matrix or a norm's scale, and of its bias."""
  name = 'kernel' if inputs else 'scale'
  return (
    _Entry(
      f'{path}/{name}',
      f'{hf}.weight',
      f'{gguf}.weight',
      dims,
      inputs,
      file_inputs=file_inputs,
    ),
    _Entry(f'{path}/bias', f'{hf}.bias', f'{gguf}.bias', dims[-1]),
  )


_TOWER = 'vision/tower'
_TOP = (
  *_with_bias(
    f'{_TOWER}/embedding',
    f'{_PREFIX}embeddings.patch_embedding',
    'v.patch_embd',
    'XE',
    1,
    file_inputs='Cpp',
  ),
  _Entry(
    f'{_TOWER}/positions',
    f'{_PREFIX}embeddings.position_embedding.weight',
    'v.position_embd.weight',
    'PE',
  ),
  *_with_bias(
    f'{_TOWER}/final_norm', f'{_PREFIX}post_layernorm', 'v.post_ln', 'E'
  ),
  _Entry(
    'vision/projector/norm/scale',
    f'{_PROJECTOR}mm_soft_emb_norm.weight',
    'mm.soft_emb_norm.weight',
    'E',
    gguf_offset=1.0,
  ),
  _Entry(
    'vision/projector/kernel',
    f'{_PROJECTOR}mm_input_projection_weight',
    'mm.input_projection.weight',
    'ED',
  ),
)
_LAYER = (
  *_with_bias('attention_norm', 'layer_norm1', 'ln1', 'E'),
  *_with_bias('query', 'self_attn.q_proj', 'attn_q', 'EE', 1),
  *_with_bias('key', 'self_attn.k_proj', 'attn_k', 'EE', 1),
  *_with_bias('value', 'self_attn.v_proj', 'attn_v', 'EE', 1),
  *_with_bias('out', 'self_attn.out_proj', 'attn_out', 'EE', 1),
  *_with_bias('mlp_norm', 'layer_norm2', 'ln2', 'E'),
  *_with_bias('up', 'mlp.fc1', 'ffn_up', 'EM', 1),
  *_with_bias('down', 'mlp.fc2', 'ffn_down', 'ME', 1),
)


def tensors(
  config: config_lib.VisionConfig, text_dim: int
) -> list[tensors_lib.Tensor]:
  """Returns the tensors of the tower and the projector.

  Args:
    config: their sizes.
    text_dim: D.
  """
  sizes = {
    'X': config.patch_values,
    'C': 3,
    'p': config.patch_size,
    'P': config.patches,
    'E': config.embed_dim,
    'M': config.mlp_dim,
    'D': text_dim,
  }
  located = [(entry, ((), None), '{}', '{}') for entry in _TOP]
  for i in range(config.num_layers):
    place = (*_TOWER.split('/'), 'layers'), i
    names = f'{_PREFIX}encoder.layers.{i}.{{}}', f'v.blk.{i}.{{}}'
    located += [(entry, place, *names) for entry in _LAYER]
  return [
    tensors_lib.of_entry(entry, None, place, hf, gguf, sizes)
    for entry, place, hf, gguf in located
  ]


def key(key_: str) -> str | None:
  """Returns the key in the published files; None if not of a tower."""
  for pattern, prefix in ((_TOWER_KEY, _PREFIX), (_PROJECTOR_KEY, _PROJECTOR)):
    match = pattern.fullmatch(key_)
    if match:
      return prefix + match.group(1)
  return None


def from_dict(
  raw: Mapping[str, Any], file: str
) -> config_lib.VisionConfig | None:
  """Returns the tower that a config.json describes; None if it has none.

  Raises:
    ConfigError: a key is wrong, or the sizes do not fit together.
  """
  if not raw.get('vision_config'):
    return None
  whole = file_fields.Json(file, raw, {_IMAGE_TOKENS: _PUBLISHED_IMAGE_TOKENS})
  fields = file_fields.Json(
    f'{file}: vision_config', whole.object('vision_config'), _PUBLISHED
  )
  fields.check_fixed(_FIXED)
  tokens = whole.number(_IMAGE_TOKENS)
  side = round(tokens**0.5)
  config = config_lib.VisionConfig(
    image_size=fields.number('image_size'),
    patch_size=fields.number('patch_size'),
    embed_dim=fields.number('hidden_size'),
    mlp_dim=fields.number('intermediate_size'),
    num_heads=fields.number('num_attention_heads'),
    num_layers=fields.number('num_hidden_layers', most=file_fields.MAX_LAYERS),
    norm_epsilon=fields.number('layer_norm_eps', float),
    tokens_per_side=side,
  )
  _check_sizes(
    config, fields, 'patch_size', 'num_attention_heads', 'hidden_size'
  )
  if side**2 != tokens or config.patches_per_side % side:
    raise whole.error(
      _IMAGE_TOKENS,
      f'found {tokens}',
      legal=f'the square of a divisor of {config.patches_per_side} patches',
    )
  return config


def _check_sizes(config, fields, patch, heads, width):
  """Raises ConfigError if sizes do not divide each other.

  Args:
    config: the tower's sizes.
    fields: the file's fields.
    patch: the key of the patches' size.
    heads: the key of the number of heads.
    width: the key of the width.
  """
  if config.image_size % config.patch_size:
    raise fields.error(
      patch, f'found {config.patch_size}', legal='a divisor of image_size'
    )
  if config.embed_dim % config.num_heads:
    raise fields.error(
      heads, f'found {config.num_heads}', legal=f'a divisor of {width}'
    )


def to_dict(config: config_lib.VisionConfig) -> dict[str, Any]:
  """Returns the keys of config.json in addition to `text_config`."""
  return {
    _IMAGE_TOKENS: config.soft_tokens,
    'vision_config': {
      **_FIXED,
      'attention_dropout': 0.0,
      'model_type': 'siglip_vision_model',
      'hidden_size': config.embed_dim,
      'image_size': config.image_size,
      'intermediate_size': config.mlp_dim,
      'layer_norm_eps': config.norm_epsilon,
      'num_attention_heads': config.num_heads,
      'num_hidden_layers': config.num_layers,
      'patch_size': config.patch_size,
    },
  }


def processor(config: config_lib.VisionConfig) -> dict[str, dict[str, Any]]:
  """Returns the files that describe preprocessing, by name."""
  size = config.image_size
  return {
    'preprocessor_config.json': {
      'do_convert_rgb': None,
      'do_normalize': True,
      'do_pan_and_scan': None,
      'do_rescale': True,
      'do_resize': True,
      'image_mean': _MIDDLE,
      'image_processor_type': 'Gemma3ImageProcessor',
      'image_seq_length': config.soft_tokens,
      'image_std': _MIDDLE,
      'processor_class': 'Gemma3Processor',
      'resample': 2,  # Bilinear.
      'rescale_factor': 1 / 255,
      'size': {'height': size, 'width': size},
    },
    'processor_config.json': {
      'image_seq_length': config.soft_tokens,
      'processor_class': 'Gemma3Processor',
    },
  }


def to_gguf(config: config_lib.VisionConfig, text_dim: int) -> dict[str, Any]:
  """Returns the metadata of llama.cpp's vision tower file.

  Args:
    config: the tower's sizes.
    text_dim: D.
  """
  sizes = {
    'image_size': config.image_size,
    'patch_size': config.patch_size,
    'embedding_length': config.embed_dim,
    'feed_forward_length': config.mlp_dim,
    'block_count': config.num_layers,
    'attention.head_count': config.num_heads,
    'attention.layer_norm_epsilon': config.norm_epsilon,
    'projection_dim': text_dim,
    'image_mean': _MIDDLE,
    'image_std': _MIDDLE,
  }
  square = config.patches_per_side // config.tokens_per_side
  if square != _PUBLISHED_SQUARE:
    sizes[_SQUARE] = square
  return {
    'clip.has_vision_encoder': True,
    _PROJECTOR_TYPE: 'gemma3',
    'clip.use_gelu': True,
    **{f'clip.vision.{key}': value for key, value in sizes.items()},
  }


def from_gguf(
  metadata: Mapping[str, Any], shapes: Mapping[str, Any], file: str
) -> tuple[config_lib.VisionConfig, int]:
  """Returns the tower that an mmproj file describes, and D.

  Raises:
    ConfigError: it is not a tower of Gemma 3, or a field is wrong.
  """
  kind = metadata.get(_PROJECTOR_TYPE)
  if kind != 'gemma3':
    raise errors.ConfigError(
      f'{file}: {_PROJECTOR_TYPE}',
      'missing' if kind is None else f'found {kind!r}',
      legal="'gemma3', in llama.cpp's file of a vision tower (mmproj)",
    )
  fields = file_fields.Gguf(
    file, 'clip.vision', metadata, {_SQUARE: _PUBLISHED_SQUARE}
  )
  image, patch = fields.number('image_size'), fields.number('patch_size')
  square = fields.number(_SQUARE)
  if image // patch % square:
    raise fields.error(
      _SQUARE, f'found {square}', legal=f'a divisor of {image // patch} patches'
    )
  config = config_lib.VisionConfig(
    image_size=image,
    patch_size=patch,
    embed_dim=fields.number('embedding_length'),
    mlp_dim=fields.number('feed_forward_length'),
    num_heads=fields.number('attention.head_count'),
    num_layers=fields.number('block_count', most=file_fields.MAX_LAYERS),
    norm_epsilon=file_fields.nearest_decimal(
      fields.number('attention.layer_norm_epsilon', float)
    ),
    tokens_per_side=image // patch // square,
  )
  _check_sizes(
    config, fields, 'patch_size', 'attention.head_count', 'embedding_length'
  )
  projection = next(e.gguf for e in _TOP if e.dims == 'ED')
  if projection not in shapes:
    raise errors.ConfigError(file, f'has no tensor {projection}')
  return config, shapes[projection][1]
