"""Device programs of the engine, which decode a few steps per call."""

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

# States of a row: why it no longer decodes.
RUNNING, STOPPED, AT_LIMIT, BROKEN = 0, 1, 2, 3


@struct.dataclass
class DecodeSlots:
  """B rows, each idle or with an unfinished answer.

  Attributes:
    cache: KV cache of the rows.
    last: int32 [B], the id that is processed next.
    position: int32 [B], position of that id.
    count: int32 [B], number of ids of the answer so far, without the stop id.
    end: int32 [B], RUNNING, or why the row is idle.
    keys: uint32 [B, 2], random keys for drawing ids.
    limit: int32 [B], maximum number of ids of the answer, including its stop
      id.
    held: bool [B, V], ids that the row contains; [B, 0] without a repetition
      penalty.
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
  """New answers of rows.

  Attributes:
    take: bool [B], whether the row starts a new answer.
    source: int32 [B], row of the prefilled prompts.
    last: int32 [B], last id of the prompt, which prefill does not process.
    position: int32 [B], position of that id.
    seed: uint32 [B, 2], seed of the request.
    sample: int32 [B], index of the sample in the request.
    limit: int32 [B], see DecodeSlots.
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
  """Limits of the answers of a call.

  Attributes:
    vocab_size: int32 [], number of ids of the tokenizer; larger ids are never
      produced.
    stop_ids: int32 [n], ids that end an answer.
    pad_id: int32 [], the id that idle rows produce.
  """

  vocab_size: Array
  stop_ids: Array
  pad_id: Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty(
  model: family.Model, batch: int, slots: int, repeats: bool
) -> DecodeSlots:
  """Returns idle rows.

  Args:
    model: the module; the cache has its dtype.
    batch: B.
    slots: number of cache positions.
    repeats: whether a repetition penalty needs the ids of each row.
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
  """Returns the parameters in the form for decoding.

  Unchanged parameters, such as an embedding with the model's data type, are
  returned as the same arrays, because jit would copy them.
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
  """Returns which decoding weights are unchanged parameters.

  Args:
    model: the model.
    tree: tree structure of the parameters.
    shapes: shape and data type of each parameter.

  Returns:
    The parameter's index, or None, for each decoding weight; and the tree
    structure of the decoding weights.
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
  """Returns the decoding weights that are None in `same`."""
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
    rows: the rows, some of them idle; donated.
    prompts: P prefilled prompts.
    tokens: int32 [P, L], their ids.
    entries: the new answers.

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
    rule: static sampling options.
    held: the model's weights.
    rows: the rows; donated.
    numbers: sampling parameters.
    limits: the limits of the answers.
    live: bool [B]; the other rows become idle.
    count: K, static.

  Returns:
    The rows, their new ids int32 [B, K], including the stop id, and the
    log-probabilities float32 [B, K]; those of each row start at column 0.
  """
  batch = rows.last.shape[0]
  rows = rows.replace(end=jnp.where(live, rows.end, STOPPED))

  def continues(carry):
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
  _, rows, ids, logprobs = jax.lax.while_loop(continues, body, start)
  # Replicated, so that each process can read them.
  whole = lambda x: rules.constrain(x, (None, None))
  return _laid_out(rows), whole(ids), whole(logprobs)


def _step(model, rule, held, rows, numbers, limits):
  """Processes each row's last id and picks the next; skips idle rows."""
  hidden, cache, logits, keys = read(model, held, rows, limits)
  new = picking.pick(rule, numbers, logits, rows.held, keys)
  return advance(rows, cache, hidden, logits, new, limits)


def read(
  model: family.Model,
  held: decoding.Weights,
  rows: DecodeSlots,
  limits: Limits,
) -> tuple[Array, decoding.Cache, Array, Array]:
  """Processes each row's last id.

  Idle rows process their last id again, at the same position of their cache.

  Args:
    model: the module.
    held: its weights.
    rows: the rows.
    limits: the limits of the answers.

  Returns:
    Hidden states [B, D], the updated cache, logits float32 [B, V], and the
    random keys [B] for drawing the next ids.
  """
  hidden, cache = model.extend(held, rows.cache, rows.last, rows.position)
  logits = logits_of(held, hidden, limits.vocab_size)
  keys = jax.random.wrap_key_data(rows.keys)
  return hidden, cache, logits, jax.vmap(jax.random.fold_in)(keys, rows.count)


def advance(
  rows: DecodeSlots,
  cache: decoding.Cache,
  hidden: Array,
  logits: Array,
  new: Array,
  limits: Limits,
) -> tuple[DecodeSlots, Array, Array]:
  """Updates the rows with the picked ids; idle rows are unchanged.

  Args:
    rows: the rows before.
    cache: the cache from `read`.
    hidden: hidden states from `read`, [B, D].
    logits: logits from `read`, float32 [B, V].
    new: int32 [B], the picked ids.
    limits: the limits of the answers.

  Returns:
    The rows, the ids int32 [B], and their log-probabilities float32 [B].
  """
  log_normalizer = jax.nn.logsumexp(logits, axis=-1)
  logprob = (
    jnp.take_along_axis(logits, new[:, None], axis=1)[:, 0] - log_normalizer
  )
  broken = ~jnp.isfinite(log_normalizer) | ~jnp.all(
    jnp.isfinite(hidden), axis=-1
  )
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
  # Ids beyond the tokenizer are untrained and may have the highest logits. They
  # are masked, not cut off, so that the vocabulary stays evenly sharded.
  is_id = jnp.arange(logits.shape[-1]) < vocab_size
  return jnp.where(is_id, logits, -jnp.inf)


def _laid_out(rows: DecodeSlots) -> DecodeSlots:
  """Constrains the layout; only the cache and `held` may be split by rows."""
  whole = lambda x: rules.constrain(x, (None,) * x.ndim)
  rest = {
    field.name: whole(getattr(rows, field.name))
    for field in dataclasses.fields(DecodeSlots)
    if field.name not in ('cache', 'held')
  }
  held = rules.constrain(rows.held, ('gathered_batch', None))
  return rows.replace(held=held, **rest)
