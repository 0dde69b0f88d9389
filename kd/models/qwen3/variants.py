"""The dense Qwen3 models, as published.

Sizes and constants come from the `config.json` of each published chat model
and from arXiv 2505.09388, table 1; `qwen3_tiny` is this project's own, for
trials with the byte tokenizer. The fields are those of config.Qwen3Config.
"""

_COMMON = dict(
  num_kv_heads=8,
  head_dim=128,
  vocab_size=151_936,  # 151,669 ids, then padding rows
  context=40_960,
  rope_base=1_000_000.0,
  norm_epsilon=1e-6,
)

VARIANTS = {
  'qwen3_tiny': dict(
    embed_dim=128,
    mlp_dim=384,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=264,  # the byte tokenizer's 263 ids, padded
    num_layers=4,
    context=1024,
    rope_base=10_000.0,
    norm_epsilon=1e-6,
    tied=True,
  ),
  'qwen3_0_6b': dict(
    _COMMON,
    embed_dim=1024,
    mlp_dim=3072,
    num_heads=16,
    num_layers=28,
    tied=True,
  ),
  'qwen3_1_7b': dict(
    _COMMON,
    embed_dim=2048,
    mlp_dim=6144,
    num_heads=16,
    num_layers=28,
    tied=True,
  ),
  'qwen3_4b': dict(
    _COMMON,
    embed_dim=2560,
    mlp_dim=9728,
    num_heads=32,
    num_layers=36,
    tied=True,
  ),
  'qwen3_8b': dict(
    _COMMON,
    embed_dim=4096,
    mlp_dim=12_288,
    num_heads=32,
    num_layers=36,
    tied=False,
  ),
  'qwen3_14b': dict(
    _COMMON,
    embed_dim=5120,
    mlp_dim=17_408,
    num_heads=40,
    num_layers=40,
    tied=False,
  ),
  'qwen3_32b': dict(
    _COMMON,
    embed_dim=5120,
    mlp_dim=25_600,
    num_heads=64,
    num_layers=64,
    tied=False,
  ),
}
