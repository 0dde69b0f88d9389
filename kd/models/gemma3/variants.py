"""The variants of Gemma 3 text models, as published.

Sizes and constants come from the `config.json` of each published model
(270M, 1B, 4B, 12B, 27B) and from arXiv 2503.19786; `tiny` and `nano` are this
project's own, for the quickstart. The fields are those of config.Gemma3Config,
with `num_layers` in place of `layer_kinds`. A model has the tower in `vision`
only if a config requests it.
"""

from kd.models.vision import config as vision

# A tower for images of 56 x 56 pixels, with 16 soft tokens each.
_SMALL_TOWER = vision.VisionConfig(
  image_size=56,
  patch_size=7,
  embed_dim=64,
  mlp_dim=128,
  num_heads=2,
  num_layers=2,
  norm_epsilon=1e-6,
  tokens_per_side=4,
)

_COMMON = dict(
  local_rope_base=10_000.0,
  global_rope_base=1_000_000.0,
  norm_epsilon=1e-6,
)
_SMALL = dict(
  _COMMON,
  num_heads=4,
  num_kv_heads=1,
  head_dim=256,
  vocab_size=262_144,
  window=512,
  context=32_768,
  query_scale=256.0,
  global_rope_factor=1.0,
)
_LARGE = dict(
  _COMMON,
  head_dim=256,
  vocab_size=262_208,  # 262,144 text ids, then padding rows
  window=1024,
  context=131_072,
  query_scale=256.0,
  global_rope_factor=8.0,
  vision=vision.SIGLIP,
)
_BYTES = dict(
  _COMMON,
  vocab_size=264,  # the byte tokenizer's 263 ids, padded
  window=32,
  context=1024,
  global_rope_factor=1.0,
  vision=_SMALL_TOWER,
)

VARIANTS = {
  'nano': dict(
    _BYTES,
    num_layers=6,
    embed_dim=64,
    mlp_dim=160,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    query_scale=32.0,
  ),
  'tiny': dict(
    _BYTES,
    num_layers=6,
    embed_dim=128,
    mlp_dim=384,
    num_heads=4,
    num_kv_heads=1,
    head_dim=32,
    query_scale=32.0,
  ),
  '270m': dict(_SMALL, num_layers=18, embed_dim=640, mlp_dim=2048),
  '1b': dict(_SMALL, num_layers=26, embed_dim=1152, mlp_dim=6912),
  '4b': dict(
    _LARGE,
    num_layers=34,
    embed_dim=2560,
    mlp_dim=10_240,
    num_heads=8,
    num_kv_heads=4,
  ),
  '12b': dict(
    _LARGE,
    num_layers=48,
    embed_dim=3840,
    mlp_dim=15_360,
    num_heads=16,
    num_kv_heads=8,
  ),
  '27b': dict(
    _LARGE,
    num_layers=62,
    embed_dim=5376,
    mlp_dim=21_504,
    num_heads=32,
    num_kv_heads=16,
    head_dim=128,
    query_scale=168.0,
  ),
}
