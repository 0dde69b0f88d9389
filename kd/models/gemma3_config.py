"""The shape of a Gemma 3 text model."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from kd.core import errors

LOCAL = 'local'
GLOBAL = 'global'
PUBLISHED_PERIOD = 6  # five local layers, then a global one


def periodic_kinds(num_layers: int, every: int) -> tuple[str, ...]:
  """Kinds of layers 0..S-1 with the last of each `every` layers global."""
  return tuple(
    GLOBAL if (i + 1) % every == 0 else LOCAL for i in range(num_layers)
  )


def published_kinds(num_layers: int) -> tuple[str, ...]:
  """Kinds of layers 0..S-1 as published: layers 5, 11, 17, ... are global."""
  return periodic_kinds(num_layers, PUBLISHED_PERIOD)


def period(kinds: Sequence[str]) -> int:
  """The smallest p such that `kinds` repeats itself every p layers.

  The last repetition may be cut short; it then runs outside the scan.
  """
  for p in range(1, len(kinds) + 1):
    if all(kinds[i] == kinds[i - p] for i in range(p, len(kinds))):
      return p
  return len(kinds)


def closest_layers(
  kinds: Sequence[str], wanted: Sequence[str]
) -> tuple[int, ...] | None:
  """Selects evenly spread layers whose kinds are the wanted ones.

  Of n layers selected from N, the i-th should be layer i * N / n. Of all
  selections that have the wanted kinds, the one with the least squared distance
  from there is returned; of several such, the lexicographically first.

  Args:
    kinds: of the layers to select from.
    wanted: of the layers to keep.

  Returns:
    Indices in rising order, or None if no selection has these kinds.
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
class Gemma3Config:
  """Sizes and constants of one model; nothing that training chooses.

  Attributes:
    embed_dim: D.
    mlp_dim: F.
    num_heads: N, query heads.
    num_kv_heads: G, key and value heads; divides N.
    head_dim: H.
    vocab_size: V, rows of the embedding, padding rows included.
    layer_kinds: LOCAL or GLOBAL for each of the S layers.
    window: keys that a local layer's query sees, itself included.
    context: positions the model was trained for.
    query_scale: attention scores are multiplied by query_scale ** -0.5.
    local_rope_base: base of the rotary frequencies in local layers.
    global_rope_base: the same in global layers.
    global_rope_factor: positions are divided by it in global layers.
    norm_epsilon: added to the mean square in RMSNorm.
  """

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

  @property
  def num_layers(self) -> int:
    return len(self.layer_kinds)

  @property
  def scan_period(self) -> int:
    return period(self.layer_kinds)

  @property
  def scan_groups(self) -> int:
    """How many whole periods the scan runs over."""
    return self.num_layers // self.scan_period

  @property
  def is_published_pattern(self) -> bool:
    return self.layer_kinds == published_kinds(self.num_layers)

  def keep_layers(self, layers: Sequence[int]) -> 'Gemma3Config':
    """The model that has only these layers, each with its kind."""
    return dataclasses.replace(
      self, layer_kinds=tuple(self.layer_kinds[i] for i in layers)
    )


def from_variant(
  name: str, table: Mapping[str, Mapping[str, Any]], path: str
) -> Gemma3Config:
  """The published model of that name.

  Args:
    name: the variant, e.g. '1b'.
    table: kd/config/variants.py's VARIANTS: fields of Gemma3Config, with
      `num_layers` in place of `layer_kinds`.
    path: the config path that holds the name, for the message.

  Returns:
    Its config.

  Raises:
    ConfigError: there is no such variant.
  """
  if name not in table:
    raise errors.unknown(path, 'variant', name, list(table))
  fields = dict(table[name])
  kinds = published_kinds(fields.pop('num_layers'))
  return Gemma3Config(layer_kinds=kinds, **fields)


def parameter_count(config: Gemma3Config) -> int:
  """Parameters of the model; the output head is the embedding, counted once."""
  c = config
  attention = c.embed_dim * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
  mlp = 3 * c.embed_dim * c.mlp_dim
  norms = 4 * c.embed_dim + 2 * c.head_dim
  layers = c.num_layers * (attention + mlp + norms)
  return c.vocab_size * c.embed_dim + layers + c.embed_dim
