"""Maps this project's parameters to the tensors of other layouts.

A linear map is stored here with its inputs first and its heads apart, e.g. the
query as [D, N, H]; in Hugging Face's and GGUF's files it is a matrix with its
outputs first, [N * H, D]. The model multiplies by 1 + w in its norms; `w` is
what is stored here and in Hugging Face's files, 1 + w in GGUF's.
"""

import dataclasses
import math

import numpy as np

from kd.core import types
from kd.models import gemma3_config

HF = 'hf'
GGUF = 'gguf'
EMBEDDING = ('embedding',)  # Keys of the table in the parameter tree.

# Parameter; name in a Hugging Face file; name in a GGUF file; its dimensions
# here; how many of these are inputs (0: stored as it is).
_TOP = (
  ('embedding', 'embed_tokens.weight', 'token_embd.weight', 'VD', 0),
  ('final_norm/scale', 'norm.weight', 'output_norm.weight', 'D', 0),
)
_LAYER = (
  ('attention/query', 'self_attn.q_proj', 'attn_q', 'DNH', 1),
  ('attention/key', 'self_attn.k_proj', 'attn_k', 'DGH', 1),
  ('attention/value', 'self_attn.v_proj', 'attn_v', 'DGH', 1),
  ('attention/out', 'self_attn.o_proj', 'attn_output', 'NHD', 2),
  ('attention/query_norm/scale', 'self_attn.q_norm', 'attn_q_norm', 'H', 0),
  ('attention/key_norm/scale', 'self_attn.k_norm', 'attn_k_norm', 'H', 0),
  ('mlp/gate', 'mlp.gate_proj', 'ffn_gate', 'DF', 1),
  ('mlp/up', 'mlp.up_proj', 'ffn_up', 'DF', 1),
  ('mlp/down', 'mlp.down_proj', 'ffn_down', 'FD', 1),
  ('pre_attention_norm/scale', 'input_layernorm', 'attn_norm', 'D', 0),
  (
    'post_attention_norm/scale',
    'post_attention_layernorm',
    'post_attention_norm',
    'D',
    0,
  ),
  ('pre_mlp_norm/scale', 'pre_feedforward_layernorm', 'ffn_norm', 'D', 0),
  (
    'post_mlp_norm/scale',
    'post_feedforward_layernorm',
    'post_ffw_norm',
    'D',
    0,
  ),
)


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a file, and where in the parameter tree it belongs.

  Attributes:
    path: keys into the parameter tree.
    group: its index along the leading axis of a scanned parameter, else None.
    shape: its shape here, without that axis.
    inputs: how many dimensions of `shape` are inputs, 0: stored as it is.
    hf: its name in a Hugging Face file.
    gguf: its name in a GGUF file.
  """

  path: tuple[str, ...]
  group: int | None
  shape: tuple[int, ...]
  inputs: int
  hf: str
  gguf: str

  @property
  def is_norm(self) -> bool:
    return self.path[-1] == 'scale'

  def name(self, layout: str) -> str:
    """Its name in a file of `layout` (HF or GGUF)."""
    return {HF: self.hf, GGUF: self.gguf}[layout]

  @property
  def file_shape(self) -> tuple[int, ...]:
    """Its shape in either kind of file."""
    if not self.inputs:
      return self.shape
    inputs, outputs = self.shape[: self.inputs], self.shape[self.inputs :]
    return math.prod(outputs), math.prod(inputs)

  def from_file(self, array: np.ndarray, layout: str) -> np.ndarray:
    """The parameter, of `shape`, that a file's array stands for."""
    if self.inputs:
      return array.T.reshape(self.shape)
    if self.is_norm and layout == GGUF:
      return array - np.float32(1)
    return array

  def to_file(self, array: np.ndarray, layout: str) -> np.ndarray:
    """The array that a file of `layout` holds for a parameter of `shape`."""
    if self.inputs:
      return array.reshape(self.file_shape[::-1]).T
    if self.is_norm and layout == GGUF:
      return array + np.float32(1)
    return array


def location(
  config: gemma3_config.Gemma3Config, layer: int
) -> tuple[tuple[str, str], int | None]:
  """Where a layer's parameters are: keys, and the index of its scan group."""
  group, position = divmod(layer, config.scan_period)
  if group < config.scan_groups:
    return ('pattern', f'layer_{position}'), group
  return ('remainder', f'layer_{position}'), None


def tensors(config: gemma3_config.Gemma3Config) -> list[Tensor]:
  """Every tensor of a model, the embedding first, then layer by layer."""
  c = config
  sizes = {
    'V': c.vocab_size,
    'D': c.embed_dim,
    'F': c.mlp_dim,
    'H': c.head_dim,
    'N': c.num_heads,
    'G': c.num_kv_heads,
  }
  shape = lambda dims: tuple(sizes[d] for d in dims)
  found = [
    Tensor(
      tuple(path.split('/')), None, shape(dims), inputs, f'model.{hf}', gguf
    )
    for path, hf, gguf, dims, inputs in _TOP
  ]
  for i in range(c.num_layers):
    keys, group = location(c, i)
    for path, hf, gguf, dims, inputs in _LAYER:
      found.append(
        Tensor(
          keys + tuple(path.split('/')),
          group,
          shape(dims),
          inputs,
          f'model.layers.{i}.{hf}.weight',
          f'blk.{i}.{gguf}.weight',
        )
      )
  return found


def leaf(tree: types.PyTree, path: tuple[str, ...]) -> types.PyTree:
  """The leaf, or subtree, at `path`."""
  for key in path:
    tree = tree[key]
  return tree


def set_leaf(tree: dict, path: tuple[str, ...], value: types.PyTree) -> None:
  """Puts `value` at `path` of nested dicts, making those that are missing."""
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value
