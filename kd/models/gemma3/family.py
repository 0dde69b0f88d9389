"""Gemma 3 as a family; see kd/models/family.py."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kd.models import family
from kd.models import tensors as tensors_lib
from kd.models import transformer
from kd.models.gemma3 import config as config_lib
from kd.models.gemma3 import gguf
from kd.models.gemma3 import huggingface
from kd.models.gemma3 import layer
from kd.models.gemma3 import model
from kd.models.gemma3 import vision
from kd.models.vision import config as vision_config

_Entry = tensors_lib.Entry


def _norm(path: str, hf: str, gguf_name: str, dims: str = 'D') -> _Entry:
  # Only GGUF files contain 1 + scale.
  return _Entry(
    f'{path}/scale',
    hf,
    gguf_name,
    dims,
    gguf_offset=layer.Layer.style.norm_offset,
  )


_TOP = (
  _Entry('embedding', 'model.embed_tokens.weight', 'token_embd.weight', 'VD'),
  _norm('final_norm', 'model.norm.weight', 'output_norm.weight'),
)
_LAYER = (
  _Entry('attention/query', 'self_attn.q_proj', 'attn_q', 'DNH', 1),
  _Entry('attention/key', 'self_attn.k_proj', 'attn_k', 'DGH', 1),
  _Entry('attention/value', 'self_attn.v_proj', 'attn_v', 'DGH', 1),
  _Entry('attention/out', 'self_attn.o_proj', 'attn_output', 'NHD', 2),
  _norm('attention/query_norm', 'self_attn.q_norm', 'attn_q_norm', 'H'),
  _norm('attention/key_norm', 'self_attn.k_norm', 'attn_k_norm', 'H'),
  _Entry('mlp/gate', 'mlp.gate_proj', 'ffn_gate', 'DF', 1),
  _Entry('mlp/up', 'mlp.up_proj', 'ffn_up', 'DF', 1),
  _Entry('mlp/down', 'mlp.down_proj', 'ffn_down', 'FD', 1),
  _norm('pre_attention_norm', 'input_layernorm', 'attn_norm'),
  _norm(
    'post_attention_norm', 'post_attention_layernorm', 'post_attention_norm'
  ),
  _norm('pre_mlp_norm', 'pre_feedforward_layernorm', 'ffn_norm'),
  _norm('post_mlp_norm', 'post_feedforward_layernorm', 'post_ffw_norm'),
)

_QUERY_NORM = ('attention', 'query_norm', 'scale')


class Gemma3(family.Family):
  """The Gemma 3 family."""

  title = 'Gemma 3'
  config_type = config_lib.Gemma3Config
  chat_template = 'gemma'
  hf_model_types = huggingface.MODEL_TYPES
  gguf_architecture = gguf.ARCHITECTURE
  gguf_lists = (f'{gguf.ARCHITECTURE}.{gguf.PATTERN}',)
  license = 'gemma'
  notice = (
    'Gemma is provided under and subject to the Gemma Terms of Use found at '
    'ai.google.dev/gemma/terms'
  )
  reads_images = True

  def variant(self, fields: Mapping[str, Any]) -> config_lib.Gemma3Config:
    return config_lib.from_variant(fields)

  def build(
    self, config: family.Config, dtype: jax.numpy.dtype, remat: str
  ) -> family.Model:
    return model.Gemma3(config, dtype, remat)

  def tensors(self, config: family.Config) -> list[tensors_lib.Tensor]:
    text = transformer.tensors(config, _TOP, _LAYER)
    if config.vision is None:
      return text
    tower = self.vision_tensors(config.vision, config.embed_dim)
    return [*text[: len(_TOP)], *tower, *text[len(_TOP) :]]

  def config_from_hf(
    self, raw: Mapping[str, Any], file: str
  ) -> config_lib.Gemma3Config:
    return huggingface.from_dict(raw, file)

  def config_to_hf(self, config: family.Config) -> dict[str, Any]:
    return huggingface.to_dict(config)

  def hf_processor(self, config: family.Config) -> dict[str, dict[str, Any]]:
    return vision.processor(config.vision) if config.vision else {}

  def hf_text_module(self, model_type: str) -> str:
    return huggingface.text_module(model_type)

  def hf_key(self, key: str, with_vision: bool) -> str | None:
    return huggingface.key(key, with_vision)

  def hf_file_key(self, config: family.Config, key: str) -> str:
    return huggingface.file_key(config, key)

  def config_from_gguf(
    self,
    metadata: Mapping[str, Any],
    shapes: family.Shapes,
    file: str,
  ) -> config_lib.Gemma3Config:
    vocab_size = shapes['token_embd.weight'][0]
    return gguf.from_metadata(metadata, vocab_size, file)

  def vision_to_gguf(self, config: family.Config) -> dict[str, Any]:
    return vision.to_gguf(config.vision, config.embed_dim)

  def vision_from_gguf(
    self, metadata: Mapping[str, Any], shapes: family.Shapes, file: str
  ) -> tuple[vision_config.VisionConfig, int]:
    return vision.from_gguf(metadata, shapes, file)

  def vision_tensors(
    self, config: vision_config.VisionConfig, text_dim: int
  ) -> list[tensors_lib.Tensor]:
    return vision.tensors(config, text_dim)

  def config_to_gguf(self, config: family.Config) -> dict[str, Any]:
    return gguf.to_metadata(config)

  def to_gguf(
    self, config: family.Config, tensor: tensors_lib.Tensor, array: np.ndarray
  ) -> np.ndarray:
    """Converts a parameter, and scales query norms; see gguf.query_factor."""
    array = tensor.to_file(array, tensors_lib.GGUF)
    if tensor.path[-len(_QUERY_NORM) :] == _QUERY_NORM:
      array = array * np.float32(gguf.query_factor(config))
    return array

  def gguf_note(self, config: family.Config) -> str:
    """Returns a note if layers are not five local ones to a global one."""
    pattern = gguf.to_metadata(config).get(gguf.PATTERN)
    if pattern is None:
      return ''
    what, since = f'repeat with a period of {pattern}', 'its versions of 2026'
    if isinstance(pattern, list):
      # Tested with its build 11549. In September it read only a period.
      what = 'do not repeat with a fixed period'
      since = 'its builds of October 2026'
    return (
      f'layer kinds {what}: llama.cpp supports this from {since} on; earlier '
      'ones silently assume five local layers per global layer'
    )

  def hf_problem(self, config: family.Config) -> str:
    return huggingface.problem(config)

  def export_warning(
    self, config: family.Config, source: family.Config | None
  ) -> str:
    """Returns a warning if kinds are not as published; see family.Family."""
    wanted = config_lib.published_kinds(config.num_layers)
    if config.layer_kinds == wanted:
      return ''
    kinds = ''.join(kind[0] for kind in config.layer_kinds)
    text = (
      f'layer kinds {kinds} (l: local, g: global) are not five local layers to '
      "one global: programs that derive a layer's kind from its number cannot "
      'load this folder; transformers from 4.53 and vLLM, which read '
      'layer_types, can, and llama.cpp reads the GGUF of export.formats'
    )
    if source is None:
      return text
    layers = config_lib.closest_layers(source.layer_kinds, wanted)
    if layers is None:
      return text
    return (
      f'{text}. Every program can load the same number of layers with '
      f"--config.student.keep_layers='{layers}'"
    )


FAMILY = Gemma3()
