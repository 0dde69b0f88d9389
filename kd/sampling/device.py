"""What the engine runs on the device: rows that decode, a few steps a call."""

import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import decoding
from kd.models import family
from kd.models import matmul
from kd.partitioning import rules
from kd.sampling import picking

Array = types.Array

# Why a row no longer decodes.
RUNNING, STOPPED, AT_LIMIT, BROKEN = 0, 1, 2, 3


@struct.dataclass
class DecodeSlots:
  """The B rows, each with an answer that grows, or idle.

  Attributes:
    cache: of what each row has read.
    last: int32 [B], the id that is read next.
    position: int32 [B], where that stands.
    count: int32 [B], ids of the answer so far, without the stop id.
    end: int32 [B], RUNNING, or why the row is idle.
    keys: uint32 [B, 2], what its ids are drawn with.
    limit: int32 [B], the most ids of the answer, its stop id included.
    held: bool [B, V], the ids that it has; [B, 0] where nobody asks.
  """

  cache: decoding.Cache
  last: Array
  position: Array
  count: Array
  end: Array
  keys: Array
  limit: Array
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
    limit: int32 [B], as in DecodeSlots.
  """

  take: Array
  source: Array
  last: Array
  position: Array
  seed: Array
  sample: Array
  limit: Array


@struct.dataclass
class Limits:
  """What a call's answers may hold.

  Attributes:
    vocab_size: int32 [], ids of the tokenizer; the head's rows beyond it are
      never produced.
    stop_ids: int32 [n], each of them ends an answer.
    pad_id: int32 [], what idle rows produce.
  """

  vocab_size: Array
  stop_ids: Array
  pad_id: Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty(
  model: family.Model, batch: int, slots: int, repeats: bool
) -> DecodeSlots:
  """Idle rows.

  Args:
    model: the module; its dtype is that of the cache.
    batch: B.
    slots: positions that there is room for.
    repeats: a repetition penalty asks for the ids that each row has.
  """
  zeros = lambda *shape: jnp.zeros((batch, *shape), jnp.int32)
  return _laid_out(
    DecodeSlots(
      cache=model.empty_cache(batch, slots),
      last=zeros(),
      position=zeros(),
      count=zeros(),
      end=zeros() + STOPPED,
      keys=zeros(2).astype(jnp.uint32),
      limit=zeros(),
      held=zeros(model.config.vocab_size if repeats else 0).astype(bool),
    )
  )


def weights(model: family.Model, params: types.PyTree) -> types.PyTree:
  """Returns the parameters as decoding reads them.

  Those that it reads as they are, such as the embedding where its data type is
  that of the model, are the same arrays: jit would copy them.
  """
  given, tree = jax.tree.flatten(params)
  shapes = tuple((x.shape, x.dtype) for x in given)
  same, result = _unchanged(model, tree, shapes)
  computed = iter(changed_weights(model, same, params))
  return result.unflatten(
    next(computed) if place is None else given[place] for place in same
  )


@functools.lru_cache(maxsize=32)
def _unchanged(model, tree, shapes):
  """Returns which decoding weights are parameters as they are.

  Args:
    model: the model.
    tree: of the parameters.
    shapes: with the data types, of each.

  Returns:
    For each decoding weight the parameter's number, or None; and their tree.
  """
  params = tree.unflatten(jax.ShapeDtypeStruct(*x) for x in shapes)
  program, held = jax.make_jaxpr(model.decoding_weights, return_shape=True)(
    params
  )
  numbers = {variable: i for i, variable in enumerate(program.jaxpr.invars)}
  same = tuple(numbers.get(variable) for variable in program.jaxpr.outvars)
  return same, jax.tree.structure(held)


@functools.partial(jax.jit, static_argnums=(0, 1))
def changed_weights(
  model: family.Model, same: tuple[int | None, ...], params: types.PyTree
) -> list[Array]:
  """Returns those decoding weights whose place in `same` is None."""
  held = jax.tree.leaves(model.decoding_weights(params))
  return [x for x, place in zip(held, same, strict=True) if place is None]


@functools.partial(jax.jit, static_argnums=0)
def prefill(
  model: family.Model,
  params: types.PyTree,
  tokens: Array,
  lengths: Array,
  images: types.Images | None,
) -> types.PyTree:
  """Computes the KV cache of prompts; see family.Model.prefill."""
  return model.prefill(params, tokens, lengths, images)[1]


@functools.partial(jax.jit, donate_argnums=0)
def insert(
  rows: DecodeSlots, prompts: decoding.Cache, tokens: Array, entries: Entries
) -> DecodeSlots:
  """Starts answers.

  Args:
    rows: the rows, some of them idle; they are given up.
    prompts: P prefilled prompts.
    tokens: int32 [P, L], their ids.
    entries: which go where.

  Returns:
    The rows.
  """

  def put(new, old):
    take = entries.take.reshape(-1, *[1] * (old.ndim - 1))
    return jnp.where(take, new, old)

  keys = jax.random.wrap_key_data(entries.seed)
  keys = jax.vmap(jax.random.fold_in)(keys, entries.sample)
  return _laid_out(
    DecodeSlots(
      cache=decoding.insert(rows.cache, prompts, entries.take, entries.source),
      last=put(entries.last, rows.last),
      position=put(entries.position, rows.position),
      count=put(0, rows.count),
      end=put(RUNNING, rows.end),
      keys=put(jax.random.key_data(keys), rows.keys),
      limit=put(entries.limit, rows.limit),
      held=put(_held(tokens, entries, rows.held.shape), rows.held),
    )
  )


def _held(tokens, entries, shape):
  """Returns the ids of each entry's prompt, bool [B, V] or [B, 0]."""
  rows, v = jnp.arange(shape[0]), shape[1]
  ids = tokens[entries.source]
  is_read = jnp.arange(ids.shape[1]) < entries.position[:, None]
  ids = jnp.where(is_read, ids, v)
  found = jnp.zeros(shape, bool).at[rows[:, None], ids].set(True, mode='drop')
  return found.at[rows, entries.last].set(True, mode='drop')


@functools.partial(jax.jit, static_argnums=(0, 1, 7), donate_argnums=3)
def steps(
  model: family.Model,
  rule: picking.Options,
  held: decoding.Weights,
  rows: DecodeSlots,
  numbers: picking.Parameters,
  limits: Limits,
  live: Array,
  count: int,
) -> tuple[DecodeSlots, Array, Array]:
  """Decodes until all rows are idle, a row breaks, or for `count` steps.

  Args:
    model: the module.
    rule: how ids are picked.
    held: the model's weights.
    rows: the rows; they are given up.
    numbers: what ids are picked by.
    limits: of the answers.
    live: bool [B]; other rows are idle from here on.
    count: K, static.

  Returns:
    The rows, the ids int32 [B, K] that each has got, the stop id included, and
    their log-probabilities float32 [B, K]; a row's begin at column 0.
  """
  batch = rows.last.shape[0]
  rows = rows.replace(end=jnp.where(live, rows.end, STOPPED))

  def goes_on(carry):
    step, rows, _, _ = carry
    broken = jnp.any(rows.end == BROKEN)
    return (step < count) & jnp.any(rows.end == RUNNING) & ~broken

  def body(carry):
    step, rows, ids, logprobs = carry
    rows, new, logprob = _step(model, rule, held, rows, numbers, limits)
    ids = ids.at[:, step].set(new)
    return step + 1, rows, ids, logprobs.at[:, step].set(logprob)

  ids = jnp.zeros((batch, count), jnp.int32)
  start = (jnp.int32(0), rows, ids, ids.astype(jnp.float32))
  _, rows, ids, logprobs = jax.lax.while_loop(goes_on, body, start)
  # Whole on every device, so that each process can read them.
  whole = lambda x: rules.constrain(x, (None, None))
  return _laid_out(rows), whole(ids), whole(logprobs)


def _step(model, rule, held, rows, numbers, limits):
  """Reads each row's last id and picks the next; idle rows stay as they are."""
  hidden, cache, logits, keys = read(model, held, rows, limits)
  new = picking.pick(rule, numbers, logits, rows.held, keys)
  return took(rows, cache, hidden, logits, new, limits)


def read(
  model: family.Model,
  held: decoding.Weights,
  rows: DecodeSlots,
  limits: Limits,
) -> tuple[Array, decoding.Cache, Array, Array]:
  """Reads each row's last id.

  Idle rows read their last id again, into the same place of their own cache.

  Args:
    model: the module.
    held: its weights.
    rows: the rows.
    limits: of the answers.

  Returns:
    Hidden states [B, D], the cache with them, logits float32 [B, V], and the
    keys [B] that the next ids are drawn with.
  """
  hidden, cache = model.extend(held, rows.cache, rows.last, rows.position)
  logits = logits_of(held, hidden, limits.vocab_size)
  keys = jax.random.wrap_key_data(rows.keys)
  return hidden, cache, logits, jax.vmap(jax.random.fold_in)(keys, rows.count)


def took(
  rows: DecodeSlots,
  cache: decoding.Cache,
  hidden: Array,
  logits: Array,
  new: Array,
  limits: Limits,
) -> tuple[DecodeSlots, Array, Array]:
  """Notes the ids that rows take; idle rows stay as they are.

  Args:
    rows: the rows before.
    cache: from `read`, as are hidden and logits.
    hidden: [B, D].
    logits: float32 [B, V].
    new: int32 [B], the ids.
    limits: of the answers.

  Returns:
    The rows, the ids int32 [B], and their log-probabilities float32 [B].
  """
  normaliser = jax.nn.logsumexp(logits, axis=-1)
  logprob = jnp.take_along_axis(logits, new[:, None], axis=1)[:, 0] - normaliser
  broken = ~jnp.isfinite(normaliser) | ~jnp.all(jnp.isfinite(hidden), axis=-1)
  runs = rows.end == RUNNING
  stops = jnp.isin(new, limits.stop_ids)
  count = rows.count + (runs & ~stops & ~broken)
  end = jnp.where(count == rows.limit, AT_LIMIT, RUNNING)
  end = jnp.where(stops, STOPPED, end)
  end = jnp.where(broken, BROKEN, end)
  rows = rows.replace(
    cache=cache,
    last=jnp.where(runs, new, rows.last),
    position=rows.position + runs,
    count=count,
    end=jnp.where(runs, end, rows.end),
    held=rows.held.at[jnp.arange(new.shape[0]), new].set(True, mode='drop'),
  )
  return rows, jnp.where(runs, new, limits.pad_id), logprob


def logits_of(
  held: decoding.Weights, hidden: Array, vocab_size: Array
) -> Array:
  """Returns logits float32 [B, V] of hidden [B, D]; -inf beyond vocab_size."""
  logits = matmul.logits(hidden, held.unembedding)
  logits = rules.constrain(logits, ('gathered_batch', 'vocab'))
  # Rows beyond the tokenizer are untrained and may win. They are masked instead
  # of cut off, so that an evenly sharded vocabulary stays so.
  is_id = jnp.arange(logits.shape[-1]) < vocab_size
  return jnp.where(is_id, logits, -jnp.inf)


def _laid_out(rows: DecodeSlots) -> DecodeSlots:
  """Returns all but the cache whole on every device."""
  whole = lambda x: rules.constrain(x, (None,) * x.ndim)
  rest = {
    field.name: whole(getattr(rows, field.name))
    for field in dataclasses.fields(DecodeSlots)
    if field.name not in ('cache', 'held')
  }
  held = rules.constrain(rows.held, ('gathered_batch', None))
  return rows.replace(held=held, **rest)
