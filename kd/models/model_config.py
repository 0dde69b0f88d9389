"""The sizes of a model of any family."""

import abc
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any, ClassVar

from kd.models.vision import config as vision_config


class Config(abc.ABC):
  """Sizes and constants of one model, independent of training.

  Each family has a frozen dataclass that implements it. Its fields are written
  to run.json and to the identity of a teacher cache.

  Attributes:
    family: name of the family.
    KINDS: legal values of layer_kinds.
    layer_norms: number of norms of width D in a layer.
    embed_dim: D.
    mlp_dim: F.
    num_heads: N, query heads.
    num_kv_heads: G, key and value heads; divides N.
    head_dim: H.
    vocab_size: V, rows of the embedding, padding rows included.
    context: number of positions the model was trained for.
    norm_epsilon: added to the mean square in RMSNorm.
    num_layers: S.
    layer_kinds: the kind of each layer. Layers of one kind have the same
      attention window and the same rotary angles.
    tied: whether the output embedding is the input embedding.
    attention_scale: multiplier of attention scores.
    vision: sizes of its vision tower; None without one.
  """

  family: ClassVar[str]
  KINDS: ClassVar[tuple[str, ...]]
  layer_norms: ClassVar[int]
  embed_dim: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int
  context: int
  norm_epsilon: float
  num_layers: int
  layer_kinds: tuple[str, ...]
  tied: bool
  attention_scale: float
  vision: vision_config.VisionConfig | None = None

  @abc.abstractmethod
  def window_of(self, kind: str) -> int | None:
    """Returns the attention window of a kind of layer, None for all keys.

    The query's own position counts. Masks and the KV cache use the window.
    """

  @abc.abstractmethod
  def keep_layers(self, layers: Sequence[int]) -> 'Config':
    """Returns the model with only these layers, for `student.keep_layers`."""

  @property
  def without_vision(self) -> 'Config':
    """The text-only model, without the vision tower."""
    return dataclasses.replace(self, vision=None) if self.vision else self

  def to_dict(self) -> dict[str, Any]:
    """Returns its fields by name; `vision` only if it has a tower.

    Files of models without one are the same as before there were towers.
    """
    fields = dataclasses.asdict(self)
    if self.vision is None:
      fields.pop('vision', None)
    return fields

  def with_widths(
    self, embed_dim: int, mlp_dim: int, num_heads: int
  ) -> 'Config':
    """Returns the model with other widths, for `student.prune`.

    All else stays the same, in particular the attention scale.
    """
    return dataclasses.replace(
      self, embed_dim=embed_dim, mlp_dim=mlp_dim, num_heads=num_heads
    )

  @property
  def parameter_count(self) -> int:
    """The number of parameters; a tied head is counted once."""
    norms = self.layer_norms * self.embed_dim + 2 * self.head_dim
    layers = self.num_layers * (self.layer_matrices + norms)
    tables = self.vocab_size * self.embed_dim * (1 if self.tied else 2)
    count = tables + layers + self.embed_dim
    if self.vision:
      count += self.vision.parameter_count(self.embed_dim)
    return count

  @property
  def windows(self) -> tuple[int | None, ...]:
    """The attention window of each layer; losses and plans use them."""
    return tuple(map(self.window_of, self.layer_kinds))

  @property
  def layer_matrices(self) -> int:
    """The number of weights of one layer that each token is multiplied by.

    FLOPs and communication are estimated from it.
    """
    heads = self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
    return self.embed_dim * (heads + 3 * self.mlp_dim)

  @property
  def recomputed_matrices(self) -> int:
    """The part of layer_matrices whose products rematerialization repeats.

    Products that no gradient needs are not recomputed.
    """
    return self.layer_matrices

  @property
  def scan_period(self) -> int:
    """The number of layers after which kinds repeat; see layer_stack."""
    return period(self.layer_kinds)

  @property
  def scan_groups(self) -> int:
    """The number of whole periods, which the scan runs over."""
    return self.num_layers // self.scan_period


@functools.cache
def period(kinds: tuple[str, ...]) -> int:
  """Returns the smallest p such that `kinds` repeats every p layers.

  The last repetition may be incomplete; it runs outside the scan.
  """
  for p in range(1, len(kinds) + 1):
    if all(kinds[i] == kinds[i - p] for i in range(p, len(kinds))):
      return p
  return len(kinds)
