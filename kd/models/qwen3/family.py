"""Qwen3 as a family; see kd/models/family.py."""

from collections.abc import Mapping
from typing import Any

import jax

from kd.models import family
from kd.models import tensors as tensors_lib
from kd.models import transformer
from kd.models.qwen3 import config as config_lib
from kd.models.qwen3 import gguf
from kd.models.qwen3 import huggingface
from kd.models.qwen3 import model

_Entry = tensors_lib.Entry

_TOP = (
  _Entry('embedding', 'model.embed_tokens.weight', 'token_embd.weight', 'VD'),
  _Entry('final_norm/scale', 'model.norm.weight', 'output_norm.weight', 'D'),
)
_HEAD = _Entry('head', 'lm_head.weight', gguf.HEAD, 'VD')
_LAYER = (
  _Entry('attention/query', 'self_attn.q_proj', 'attn_q', 'DNH', 1),
  _Entry('attention/key', 'self_attn.k_proj', 'attn_k', 'DGH', 1),
  _Entry('attention/value', 'self_attn.v_proj', 'attn_v', 'DGH', 1),
  _Entry('attention/out', 'self_attn.o_proj', 'attn_output', 'NHD', 2),
  _Entry('attention/query_norm/scale', 'self_attn.q_norm', 'attn_q_norm', 'H'),
  _Entry('attention/key_norm/scale', 'self_attn.k_norm', 'attn_k_norm', 'H'),
  _Entry('mlp/gate', 'mlp.gate_proj', 'ffn_gate', 'DF', 1),
  _Entry('mlp/up', 'mlp.up_proj', 'ffn_up', 'DF', 1),
  _Entry('mlp/down', 'mlp.down_proj', 'ffn_down', 'FD', 1),
  _Entry('pre_attention_norm/scale', 'input_layernorm', 'attn_norm', 'D'),
  _Entry('pre_mlp_norm/scale', 'post_attention_layernorm', 'ffn_norm', 'D'),
)


class Qwen3(family.Family):
  """The Qwen3 family, dense text models."""

  title = 'Qwen3'
  config_type = config_lib.Qwen3Config
  chat_template = 'qwen3'
  hf_model_types = huggingface.MODEL_TYPES
  gguf_architecture = gguf.ARCHITECTURE
  license = 'apache-2.0'

  def build(
    self, config: family.Config, dtype: jax.numpy.dtype, remat: str
  ) -> family.Model:
    return model.Qwen3(config, dtype, remat)

  def tensors(self, config: family.Config) -> list[tensors_lib.Tensor]:
    top = _TOP if config.tied else (*_TOP, _HEAD)
    return transformer.tensors(config, top, _LAYER)

  def config_from_hf(
    self, raw: Mapping[str, Any], file: str
  ) -> config_lib.Qwen3Config:
    return huggingface.from_dict(raw, file)

  def config_to_hf(self, config: family.Config) -> dict[str, Any]:
    return huggingface.to_dict(config)

  def config_from_gguf(
    self,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    file: str,
  ) -> config_lib.Qwen3Config:
    return gguf.from_metadata(metadata, shapes, file)

  def config_to_gguf(self, config: family.Config) -> dict[str, Any]:
    return gguf.to_metadata(config)


FAMILY = Qwen3()
