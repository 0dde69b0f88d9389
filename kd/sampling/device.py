"""What the engine runs on the device: rows that decode, some steps at a time."""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import decoding
from kd.models import gemma3
from kd.partitioning import rules
from kd.sampling import picking

Array = types.Array
PyTree = types.PyTree

# Why a row no longer decodes.
RUNNING, STOPPED, AT_LIMIT, BROKEN = 0, 1, 2, 3


@struct.dataclass
class Rows:
  """The B rows, each with an answer that grows, or idle.

  Attributes:
    cache: of what each row has read.
    last: int32 [B], the id that is read next.
    position: int32 [B], where that stands.
    count: int32 [B], ids of the answer so far, without the stop id.
    end: int32 [B], RUNNING, or why the row is idle.
    keys: uint32 [B, 2], what its ids are drawn with.
    held: bool [B, V], the ids that it has; [B, 0] where nobody asks.
  """

  cache: decoding.Cache
  last: Array
  position: Array
  count: Array
  end: Array
  keys: Array
  held: Array


@struct.dataclass
class Entries:
  """Which rows get a new answer, and what they begin with.

  Attributes:
    take: bool [B], these do.
    source: int32 [B], the row of the prefilled prompts.
    last: int32 [B], the prompt's last id, which prefill has not read.
    position: int32 [B], of that.
    seed: uint32 [B, 2], of the request.
    sample: int32 [B], which of the request's samples it is.
  """

  take: Array
  source: Array
  last: Array
  position: Array
  seed: Array
  sample: Array


@dataclasses.dataclass(frozen=True)
class Device:
  """The programs; equal ones share what is compiled.

  Attributes:
    model: the module; its dtype is that of the cache.
    vocab_size: ids of the tokenizer; the head's rows beyond it are never
      produced.
    stop_ids: each of them ends an answer.
    pad_id: what idle rows produce.
    rule: how ids are picked.
  """

  model: gemma3.Gemma3
  vocab_size: int
  stop_ids: tuple[int, ...]
  pad_id: int
  rule: picking.Rule

  def empty(self, batch: int, slots: int) -> Rows:
    """Idle rows with room for `slots` positions."""
    zeros = lambda *shape: jnp.zeros((batch, *shape), jnp.int32)
    width = self.model.config.vocab_size if self.rule.repeats else 0
    return _laid_out(
      Rows(
        cache=decoding.empty(self.model, batch, slots),
        last=zeros(),
        position=zeros(),
        count=zeros(),
        end=zeros() + STOPPED,
        keys=zeros(2).astype(jnp.uint32),
        held=zeros(width).astype(bool),
      )
    )

  def insert(
    self, rows: Rows, prompts: decoding.Cache, tokens: Array, entries: Entries
  ) -> Rows:
    """Starts answers.

    Args:
      rows: the rows, some of them idle.
      prompts: P prefilled prompts.
      tokens: int32 [P, L], their ids.
      entries: which go where.

    Returns:
      The rows.
    """
    put = lambda new, old: jnp.where(
      entries.take.reshape(-1, *[1] * (old.ndim - 1)), new, old
    )
    keys = jax.random.wrap_key_data(entries.seed)
    keys = jax.vmap(jax.random.fold_in)(keys, entries.sample)
    held = rows.held
    if self.rule.repeats:
      b, v = held.shape
      ids = tokens[entries.source]
      is_read = jnp.arange(ids.shape[1]) < entries.position[:, None]
      ids = jnp.where(is_read, ids, v)
      lines = jnp.arange(b)
      fresh = jnp.zeros((b, v), bool)
      fresh = fresh.at[lines[:, None], ids].set(True, mode='drop')
      held = put(fresh.at[lines, entries.last].set(True), held)
    return _laid_out(
      Rows(
        cache=decoding.insert(
          rows.cache, prompts, entries.take, entries.source
        ),
        last=put(entries.last, rows.last),
        position=put(entries.position, rows.position),
        count=put(0, rows.count),
        end=put(RUNNING, rows.end),
        keys=put(jax.random.key_data(keys), rows.keys),
        held=held,
      )
    )

  def steps(
    self,
    weights: decoding.Weights,
    rows: Rows,
    numbers: picking.Numbers,
    limit: Array,
    live: Array,
    count: int,
  ) -> tuple[Rows, Array, Array]:
    """Decodes until all rows are idle, a row breaks, or for `count` steps.

    Args:
      weights: of the model.
      rows: the rows.
      numbers: what ids are picked by.
      limit: int32 [], the most ids of an answer, its stop id included.
      live: bool [B]; other rows are idle from here on.
      count: K, static.

    Returns:
      The rows, the ids int32 [B, K] that each has got, the stop id included,
      and their log-probabilities float32 [B, K]; a row's begin at column 0.
    """
    batch = rows.last.shape[0]
    rows = rows.replace(end=jnp.where(live, rows.end, STOPPED))
    ids = jnp.full((batch, count), self.pad_id, jnp.int32)
    logprobs = jnp.zeros((batch, count), jnp.float32)

    def goes_on(carry):
      step, rows, _, _ = carry
      broken = jnp.any(rows.end == BROKEN)
      return (step < count) & jnp.any(rows.end == RUNNING) & ~broken

    def body(carry):
      step, rows, ids, logprobs = carry
      rows, new, logprob = self._step(weights, rows, numbers, limit)
      ids = ids.at[:, step].set(new)
      return step + 1, rows, ids, logprobs.at[:, step].set(logprob)

    start = (jnp.int32(0), rows, ids, logprobs)
    _, rows, ids, logprobs = jax.lax.while_loop(goes_on, body, start)
    # Whole on every device, so that each process can read them.
    whole = lambda x: rules.constrain(x, (None, None))
    return _laid_out(rows), whole(ids), whole(logprobs)

  def _step(self, weights, rows, numbers, limit):
    """Reads each row's last id and picks the next; idle rows stay as they are.

    They read their last id again, into the same place of their own cache.
    """
    hidden, cache = decoding.extend(
      self.model, weights, rows.cache, rows.last, rows.position
    )
    logits, broken = self._logits(weights, hidden)
    keys = jax.random.wrap_key_data(rows.keys)
    new = picking.pick(
      *(self.rule, numbers, logits, rows.held),
      jax.vmap(jax.random.fold_in)(keys, rows.count),
    )
    logprob = jnp.take_along_axis(logits, new[:, None], axis=1)[:, 0]
    logprob -= jax.nn.logsumexp(logits, axis=-1)
    runs = rows.end == RUNNING
    stops = jnp.isin(new, jnp.asarray(self.stop_ids, jnp.int32))
    count = rows.count + (runs & ~stops & ~broken)
    end = jnp.where(count == limit, AT_LIMIT, RUNNING)
    end = jnp.where(stops, STOPPED, end)
    end = jnp.where(broken, BROKEN, end)
    held = rows.held
    if self.rule.repeats:
      held = held.at[jnp.arange(new.shape[0]), new].set(True)
    rows = rows.replace(
      cache=cache,
      last=jnp.where(runs, new, rows.last),
      position=rows.position + runs,
      count=count,
      end=jnp.where(runs, end, rows.end),
      held=held,
    )
    return rows, jnp.where(runs, new, self.pad_id), logprob

  def _logits(self, weights, hidden: Array) -> tuple[Array, Array]:
    """Logits float32 [B, V] of hidden [B, D]; bool [B], which are broken."""
    logits = jnp.einsum(
      'bd,vd->bv',
      hidden,
      weights.embedding,
      preferred_element_type=jnp.float32,
    )
    logits = rules.constrain(logits, ('gathered_batch', 'vocab'))
    # Rows beyond the tokenizer are untrained and may win. They are masked, not
    # cut off, so that a vocabulary sharded evenly stays so.
    is_id = jnp.arange(logits.shape[-1]) < self.vocab_size
    broken = jnp.any(is_id & ~jnp.isfinite(logits), axis=-1)
    return jnp.where(is_id, logits, -jnp.inf), broken


def _laid_out(rows: Rows) -> Rows:
  """All but the cache whole on every device."""
  whole = lambda x: rules.constrain(x, (None,) * x.ndim)
  rest = {
    field.name: whole(getattr(rows, field.name))
    for field in dataclasses.fields(Rows)
    if field.name not in ('cache', 'held')
  }
  held = rules.constrain(rows.held, ('gathered_batch', None))
  return rows.replace(held=held, **rest)


# By name the compiled programs; rows are given up for the rows that come back.
empty = jax.jit(Device.empty, static_argnums=(0, 1, 2))
insert = jax.jit(Device.insert, static_argnums=0, donate_argnums=1)
steps = jax.jit(Device.steps, static_argnums=(0, 6), donate_argnums=2)
weights = jax.jit(decoding.weights, static_argnums=0)
prefill = jax.jit(decoding.prefill, static_argnums=0)
