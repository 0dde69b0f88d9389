"""Decoding on the device: prefill, then one id for each row at a time."""

from collections.abc import Callable
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import gemma3
from kd.models import kv_cache
from kd.partitioning import rules

Array = types.Array
PyTree = types.PyTree

# (logits float32 [B, V], rng) to ids int32 [B]. Ids that must never be produced
# have a logit of minus infinity.
Pick = Callable[[Array, Array], Array]


def greedy(logits: Array, rng: Array) -> Array:
  """The most likely id of each row of logits [B, V]: int32 [B]."""
  del rng  # Nothing is drawn.
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@struct.dataclass
class _State:
  """What a step of the loop hands to the next.

  Attributes:
    step: int32, how many ids were picked for each row.
    ids: int32 [B, T], the ids picked so far.
    counts: int32 [B], how many of them come before the stop id.
    finished: bool [B], whether a stop id was picked, or the row is a filler.
    broken: bool [B], whether the row's logits are not finite.
    cache: the model's, with all but the last of the ids.
  """

  step: Array
  ids: Array
  counts: Array
  finished: Array
  broken: Array
  cache: kv_cache.Cache


@dataclasses.dataclass(frozen=True)
class Loop:
  """The program that answers a batch; its methods are to be jitted.

  Attributes:
    model: the module; its dtype is that of the cache.
    vocab_size: ids of the tokenizer.
    stop_ids: each of them ends an answer.
    pad_id: what follows a stop id.
    max_new_tokens: T.
    pick: chooses each next id.
  """

  model: gemma3.Gemma3
  vocab_size: int
  stop_ids: tuple[int, ...]
  pad_id: int
  max_new_tokens: int
  pick: Pick

  def cast(self, params: PyTree) -> PyTree:
    """The matrices in the activations' type, as the layers cast them.

    Once, where the loop would read and cast the float32 ones at every token.
    The norms' weights stay float32, since the layers use them so.
    """

    def cast_leaf(path, leaf):
      is_norm = path[-1].key == 'scale'
      return leaf if is_norm else leaf.astype(self.model.dtype)

    return jax.tree_util.tree_map_with_path(cast_leaf, params)

  def run(self, params, tokens, lengths, filler, rng):
    """Prefills the cache with [B, L] prompts and decodes until all have ended.

    Args:
      params: of the model, cast.
      tokens: int32 [B, L], prompts padded on the right.
      lengths: int32 [B], ids in each prompt.
      filler: bool [B], rows that nobody asked for.
      rng: for `pick`.

    Returns:
      ids int32 [B, T], counts [B] of them before the stop id, finished bool [B]
      and broken bool [B].
    """
    b, l = tokens.shape
    cache = kv_cache.empty(
      self.model.config, b, l + self.max_new_tokens, self.model.dtype
    )
    positions = jnp.broadcast_to(jnp.arange(l, dtype=jnp.int32), (b, l))
    segment_ids = (positions < lengths[:, None]).astype(jnp.int32)
    hidden, cache = self.model.apply(
      {'params': params}, tokens, positions, segment_ids, cache
    )
    state = _State(
      step=jnp.int32(0),
      ids=jnp.full((b, self.max_new_tokens), self.pad_id, jnp.int32),
      counts=jnp.zeros(b, jnp.int32),
      finished=filler,
      broken=jnp.zeros(b, bool),
      cache=cache,
    )
    last = hidden[jnp.arange(b), lengths - 1]
    state = self._append(params, rng, state, last)
    state = jax.lax.while_loop(
      self._goes_on, lambda s: self._step(params, lengths, rng, s), state
    )
    # Whole on every device, so that each process can read them.
    return (
      rules.constrain(state.ids, (None, None)),
      rules.constrain(state.counts, (None,)),
      rules.constrain(state.finished, (None,)),
      rules.constrain(state.broken, (None,)),
    )

  def _goes_on(self, state: _State) -> Array:
    return (
      (state.step < self.max_new_tokens)
      & ~jnp.all(state.finished)
      & ~jnp.any(state.broken)
    )

  def _step(self, params, lengths, rng, state: _State) -> _State:
    """Reads the last id of each row and picks the next."""
    # A finished row goes on with pad tokens in its own cache; no one reads it.
    last = state.step - 1
    hidden, cache = self.model.apply(
      {'params': params},
      state.ids[:, last][:, None],
      (lengths + last)[:, None],
      jnp.ones_like(lengths)[:, None],
      state.cache,
    )
    return self._append(params, rng, state.replace(cache=cache), hidden[:, 0])

  def _append(self, params, rng, state: _State, hidden: Array) -> _State:
    """Picks an id for each row from its last hidden state [B, D]."""
    logits, broken = self._logits(params, hidden)
    broken &= ~state.finished
    ids = self.pick(logits, jax.random.fold_in(rng, state.step))
    ids = jnp.where(state.finished, self.pad_id, ids)
    stops = jnp.isin(ids, jnp.asarray(self.stop_ids, jnp.int32))
    finished = state.finished | stops
    return state.replace(
      step=state.step + 1,
      ids=state.ids.at[:, state.step].set(ids),
      counts=state.counts + ~(finished | broken),
      finished=finished,
      broken=broken,
    )

  def _logits(self, params, hidden: Array) -> tuple[Array, Array]:
    """Logits float32 [B, V] of hidden [B, D]; bool [B], which are broken."""
    logits = jnp.einsum(
      'bd,vd->bv',
      hidden,
      params['embedding'],
      preferred_element_type=jnp.float32,
    )
    logits = rules.constrain(logits, ('gathered_batch', 'vocab'))
    # Rows beyond the tokenizer are untrained and may win. They are masked, not
    # cut off, so that a vocabulary sharded evenly stays so.
    is_id = jnp.arange(logits.shape[-1]) < self.vocab_size
    broken = jnp.any(is_id & ~jnp.isfinite(logits), axis=-1)
    return jnp.where(is_id, logits, -jnp.inf), broken
