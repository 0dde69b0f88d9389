"""Starts each peer's step from the configs of our models."""

from collections.abc import Sequence
from typing import Any

from benchmarks import alternate
from benchmarks import environments
from kd.models.gemma3 import config as gemma3_config

Config = gemma3_config.Gemma3Config
TRL_LOSSES = {'trl_gkd': 'gkd', 'trl_chunked': 'chunked'}


def hugging_face(config: Config) -> dict[str, Any]:
  """Returns the arguments of transformers' Gemma3TextConfig."""
  return dict(
    vocab_size=config.vocab_size,
    hidden_size=config.embed_dim,
    intermediate_size=config.mlp_dim,
    num_hidden_layers=config.num_layers,
    num_attention_heads=config.num_heads,
    num_key_value_heads=config.num_kv_heads,
    head_dim=config.head_dim,
    sliding_window=config.window,
    max_position_embeddings=config.context,
    query_pre_attn_scalar=int(config.query_scale),
  )


def tunix(config: Config) -> dict[str, Any]:
  """Returns the arguments of Tunix's ModelConfig."""
  return dict(
    num_embed=config.vocab_size,
    embed_dim=config.embed_dim,
    hidden_dim=config.mlp_dim,
    num_layers=config.num_layers,
    num_heads=config.num_heads,
    num_kv_heads=config.num_kv_heads,
    head_dim=config.head_dim,
    sliding_window_size=config.window,
    local_base_frequency=config.local_rope_base,
    global_base_frequency=config.global_rope_base,
  )


def start(
  peer: str, student: Config, teacher: Config, tokens: Sequence[Sequence[int]]
) -> alternate.Program:
  """Starts a peer's step on random models.

  Args:
    peer: 'trl_gkd', 'trl_chunked' or 'tunix'.
    student: config of the student.
    teacher: config of the teacher.
    tokens: token ids, rows of equal length.
  """
  arguments = {'tokens': tokens}
  if peer == 'tunix':
    arguments |= {'student': tunix(student), 'teacher': tunix(teacher)}
    python = environments.python('peers_tunix')
    return alternate.Program(python, 'benchmarks.peers.tunix_step', arguments)
  arguments |= {
    'student': hugging_face(student),
    'teacher': hugging_face(teacher),
    'loss': TRL_LOSSES[peer],
  }
  return start_trl(arguments)


def start_trl(arguments: dict[str, Any]) -> alternate.Program:
  """Starts TRL's step; see trl_step for its arguments."""
  python = environments.python('peers_trl')
  return alternate.Program(python, 'benchmarks.peers.trl_step', arguments)
