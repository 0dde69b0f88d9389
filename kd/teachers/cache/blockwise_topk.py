"""Top-k and random draws from logits that are split into blocks of ids.

One pass over the logits computes the maximum and the mass of each block. Most
later operations read only a few blocks.
"""

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import probability
from kd.core import types

Array = types.Array

_BLOCK = 128  # Ids per block.


@struct.dataclass
class Blocks:
  """Logits [T, V] split into n blocks, with the maximum and mass of each.

  Attributes:
    logits: float32 [T, n, 128]; -inf for ids from V on.
    highest: float32 [T, n], the largest logit of each block.
    top: float32 [T, 1], the largest logit.
    mass: float32 [T, n], the sum of exp(logit - top) over each block.
    vocab_size: V.
  """

  logits: Array
  highest: Array
  top: Array
  mass: Array
  vocab_size: int = struct.field(pytree_node=False)

  @property
  def log_normalizer(self) -> Array:
    """The log-normalizer, float32 [T], by which log-softmax shifts logits."""
    return self.top[:, 0] + jnp.log(jnp.sum(self.mass, axis=1))

  @property
  def entropy(self) -> Array:
    """The entropy in nats, float32 [T]; as expensive as `split`."""
    logits = self.logits.reshape(self.logits.shape[0], -1)
    return probability.entropy(logits - self.log_normalizer[:, None])


def split(logits: Array) -> Blocks:
  """Splits logits, float32 [T, V], into blocks."""
  rows, size = logits.shape
  padding = [(0, 0), (0, -size % _BLOCK)]
  logits = jnp.pad(logits, padding, constant_values=-jnp.inf)
  logits = logits.reshape(rows, -1, _BLOCK)
  highest = jnp.max(logits, axis=2)
  top = jnp.max(highest, axis=1, keepdims=True)
  mass = jnp.sum(jnp.exp(logits - top[:, :, None]), axis=2)
  return Blocks(logits, highest, top, mass, size)


def exclude(blocks: Blocks, ids: Array) -> Blocks:
  """Returns blocks without the ids [T, K]; K must be below V."""
  rows = ids.shape[0]
  flat = blocks.logits.reshape(rows, -1)[:, : blocks.vocab_size]
  return split(flat.at[jnp.arange(rows)[:, None], ids].set(-jnp.inf))


def soften(blocks: Blocks, temperature: float) -> Blocks:
  """Returns the blocks of the logits divided by a temperature."""
  flat = blocks.logits.reshape(blocks.logits.shape[0], -1)
  return split(flat[:, : blocks.vocab_size] / temperature)


def most_likely(blocks: Blocks, size: int) -> tuple[Array, Array, Array]:
  """Returns the most likely ids of each token, and the log-mass of the rest.

  The ids are in the `size` blocks with the highest maxima; only these are
  sorted.

  Args:
    blocks: blocks of logits [T, V].
    size: K, at most V.

  Returns:
    The ids, int32 [T, K], the most likely first; their log-probabilities,
    float32 [T, K]; and the log-mass of all other ids, float32 [T], -inf if
    there are none.
  """
  rows, count, _ = blocks.logits.shape
  row = jnp.arange(rows)[:, None]
  _, chosen = jax.lax.top_k(blocks.highest, min(size, count))
  inside = jnp.take_along_axis(blocks.logits, chosen[:, :, None], axis=1)
  inside = inside.reshape(rows, -1)
  highest, places = jax.lax.top_k(inside, size)
  block = jnp.take_along_axis(chosen, places // _BLOCK, axis=1)
  # The other ids are summed directly: 1 minus the kept mass would be mostly
  # rounding error if that mass is close to 1.
  rest = jnp.exp(inside - blocks.top).at[row, places].set(0.0)
  outside = blocks.mass.at[row, chosen].set(0.0)
  tail = jnp.sum(rest, axis=1) + jnp.sum(outside, axis=1)
  normalizer = blocks.log_normalizer
  return (
    block * _BLOCK + places % _BLOCK,
    highest - normalizer[:, None],
    jnp.log(tail) + blocks.top[:, 0] - normalizer,
  )


def draw(blocks: Blocks, keys: Array, draws: int) -> tuple[Array, Array]:
  """Draws ids with replacement.

  Args:
    blocks: blocks of logits [T, V].
    keys: jax.random keys [T].
    draws: N, number of draws per token.

  Returns:
    The distinct ids, int32 [T, N], increasing, -1 in unused slots at the end;
    and the number of draws of each, int32 [T, N], 0 in unused slots.
  """

  def mass_within(chosen):
    inside = jnp.take_along_axis(blocks.logits, chosen[:, :, None], axis=1)
    return jnp.exp(inside - blocks.top[:, :, None])

  uniform = jax.vmap(lambda key: jax.random.uniform(key, (2, draws)))(keys)
  return _count(probability.draw_by_blocks(blocks.mass, mass_within, uniform))


def _count(ids):
  """Returns the distinct ids, increasing, and their counts."""
  ids = jnp.sort(ids, axis=1)
  new = jnp.concatenate(
    [jnp.ones_like(ids[:, :1], bool), ids[:, 1:] != ids[:, :-1]], axis=1
  )
  slot = jnp.cumsum(new, axis=1) - 1
  row = jnp.arange(ids.shape[0])[:, None]
  return (
    jnp.full_like(ids, -1).at[row, slot].set(ids),
    jnp.zeros_like(ids).at[row, slot].add(1),
  )
