"""Sizes and constants of a dense Qwen3 model."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from kd.models import family

FULL = 'full'


@dataclasses.dataclass(frozen=True)
class Qwen3Config(family.Config):
  """Sizes and constants of one model; see family.Config.

  Attributes:
    embed_dim: D.
    mlp_dim: F.
    num_heads: N, query heads.
    num_kv_heads: G, key and value heads; divides N.
    head_dim: H; N H may differ from D.
    vocab_size: V, rows of the embedding, padding rows included.
    num_layers: S.
    context: number of positions the model was trained for.
    rope_base: base of the rotary frequencies.
    norm_epsilon: added to the mean square in RMSNorm.
    tied: whether the output embedding is the input embedding.
  """

  family: ClassVar[str] = 'qwen3'
  KINDS: ClassVar[tuple[str, ...]] = (FULL,)
  layer_norms: ClassVar[int] = 2

  embed_dim: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int
  num_layers: int
  context: int
  rope_base: float
  norm_epsilon: float
  tied: bool

  @property
  def layer_kinds(self) -> tuple[str, ...]:
    return (FULL,) * self.num_layers

  @property
  def attention_scale(self) -> float:
    return self.head_dim**-0.5

  def window_of(self, kind: str) -> int | None:
    """Returns None: a query sees all earlier keys."""
    del kind
    return None

  def keep_layers(self, layers: Sequence[int]) -> 'Qwen3Config':
    """Returns the model with only these layers."""
    return dataclasses.replace(self, num_layers=len(layers))

  @property
  def recomputed_matrices(self) -> int:
    """All but the MLP's last matrix; its product is only added to the input."""
    return self.layer_matrices - self.embed_dim * self.mlp_dim
