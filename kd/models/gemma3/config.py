"""Sizes and constants of a Gemma 3 text model."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, ClassVar

from kd.models import family
from kd.models.vision import config as vision_config

LOCAL = 'local'
GLOBAL = 'global'
PUBLISHED_PERIOD = 6  # five local layers, then a global one


def periodic_kinds(num_layers: int, every: int) -> tuple[str, ...]:
  """Returns kinds of S layers, the last of each `every` of them global."""
  return tuple(
    GLOBAL if (i + 1) % every == 0 else LOCAL for i in range(num_layers)
  )


def published_kinds(num_layers: int) -> tuple[str, ...]:
  """Returns kinds of S layers as published: 5, 11, 17, ... are global."""
  return periodic_kinds(num_layers, PUBLISHED_PERIOD)


def closest_layers(
  kinds: Sequence[str], wanted: Sequence[str]
) -> tuple[int, ...] | None:
  """Selects evenly spread layers whose kinds are the wanted ones.

  Of n layers selected from N, the i-th should be layer i * N / n. Among the
  selections with the wanted kinds, the one with the least squared distance from
  there is returned, the lexicographically first in case of ties.

  Args:
    kinds: kinds of the layers to select from.
    wanted: kinds of the layers to keep.

  Returns:
    Indices in ascending order, or None if no selection has these kinds.
  """
  # By the last index: the best selection so far, with its distance.
  best = {-1: (0, ())}
  for i, kind in enumerate(wanted):
    extended = {}
    for k in (k for k, other in enumerate(kinds) if other == kind):
      before = [choice for last, choice in best.items() if last < k]
      if before:
        distance, layers = min(before)
        # In units of 1 / n, so that it is a whole number.
        step = (len(wanted) * k - len(kinds) * i) ** 2
        extended[k] = distance + step, (*layers, k)
    best = extended
  return min(best.values())[1] if best else None


@dataclasses.dataclass(frozen=True)
class Gemma3Config(family.Config):
  """Sizes and constants of one model; see family.Config.

  Attributes:
    embed_dim: D.
    mlp_dim: F.
    num_heads: N, query heads.
    num_kv_heads: G, key and value heads; divides N.
    head_dim: H.
    vocab_size: V, rows of the embedding, padding rows included.
    layer_kinds: LOCAL or GLOBAL for each of the S layers.
    window: number of keys that a query of a local layer sees, including its
      own.
    context: number of positions the model was trained for.
    query_scale: attention scores are multiplied by query_scale ** -0.5.
    local_rope_base: base of the rotary frequencies in local layers.
    global_rope_base: the same in global layers.
    global_rope_factor: divisor of positions in global layers.
    norm_epsilon: added to the mean square in RMSNorm.
    vision: sizes of its vision tower; None without one.
  """

  family: ClassVar[str] = 'gemma3'
  KINDS: ClassVar[tuple[str, ...]] = (LOCAL, GLOBAL)
  layer_norms: ClassVar[int] = 4
  tied: ClassVar[bool] = True

  embed_dim: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int
  layer_kinds: tuple[str, ...]
  window: int
  context: int
  query_scale: float
  local_rope_base: float
  global_rope_base: float
  global_rope_factor: float
  norm_epsilon: float
  vision: vision_config.VisionConfig | None = None

  @property
  def num_layers(self) -> int:
    return len(self.layer_kinds)

  @property
  def attention_scale(self) -> float:
    return self.query_scale**-0.5

  def window_of(self, kind: str) -> int | None:
    """Returns the attention window of a kind of layer, None for all keys."""
    return self.window if kind == LOCAL else None

  def keep_layers(self, layers: Sequence[int]) -> 'Gemma3Config':
    """Returns the model with only these layers, each with its kind."""
    return dataclasses.replace(
      self, layer_kinds=tuple(self.layer_kinds[i] for i in layers)
    )


def from_variant(fields: Mapping[str, Any]) -> Gemma3Config:
  """Returns the model that an entry of variants.VARIANTS describes.

  Args:
    fields: fields of Gemma3Config, with `num_layers` instead of `layer_kinds`.
  """
  fields = dict(fields)
  kinds = published_kinds(fields.pop('num_layers'))
  return Gemma3Config(layer_kinds=kinds, **fields)
