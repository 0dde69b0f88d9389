"""Device programs of a continuous batch.

The size of the batch changes while it decodes. Only `steps`, `prefill` and
`score` are large programs. Caches are moved by small programs of one array
each, which layers of the same kind share.
"""

import functools

from flax import struct
import jax
import jax.numpy as jnp

from kd.core import types
from kd.models import decoding
from kd.models import family
from kd.models import matmul
from kd.partitioning import rules
from kd.sampling import device
from kd.sampling import picking

Array = types.Array

# Maximum number of alternatives to an id.
ALTERNATIVES = 20
_CHUNK = 16  # Number of positions whose logits exist at the same time.


@struct.dataclass
class RowStates:
  """The states of B rows, which the host keeps between slices.

  Attributes:
    last: int32 [B], the id that is processed next.
    position: int32 [B], position of that id.
    count: int32 [B], number of ids of the answer so far.
    limit: int32 [B], maximum number of ids of the answer, including its stop
      id.
    live: bool [B], whether the row has an answer.
    seed: uint32 [B, 2], seed of the request.
    sample: int32 [B], index of the sample in the request.
    wants_alternatives: bool [B], whether to return the most likely ids.
    parameters: sampling parameters, float32 [B] each.
  """

  last: Array
  position: Array
  count: Array
  limit: Array
  live: Array
  seed: Array
  sample: Array
  wants_alternatives: Array
  parameters: picking.Parameters


@struct.dataclass
class Slice:
  """The results of K steps; those of each row start at column 0.

  Attributes:
    ids: int32 [B, K], new ids, including the stop id.
    logprobs: float32 [B, K], their log-probabilities.
    count: int32 [B], number of ids of the whole answer, without the stop id.
    end: int32 [B], device.RUNNING, or why the answer ended.
    other_ids: int32 [B, K, ALTERNATIVES], the most likely ids, if requested.
    other_logprobs: float32 [B, K, ALTERNATIVES], their log-probabilities.
  """

  ids: Array
  logprobs: Array
  count: Array
  end: Array
  other_ids: Array
  other_logprobs: Array


@functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
def steps(
  model: family.Model,
  held: decoding.Weights,
  cache: decoding.Cache,
  states: RowStates,
  limits: device.Limits,
  count: int,
) -> tuple[decoding.Cache, Slice]:
  """Decodes until all rows have ended, or for `count` steps.

  Args:
    model: the module.
    held: its weights.
    cache: the cache of the rows; donated.
    states: the states of the rows.
    limits: the limits of the answers.
    count: K, static.

  Returns:
    The cache, and the results.
  """
  keys = jax.random.wrap_key_data(states.seed)
  keys = jax.vmap(jax.random.fold_in)(keys, states.sample)
  rows = device.DecodeSlots(
    cache=cache,
    last=states.last,
    position=states.position,
    count=states.count,
    end=jnp.where(states.live, device.RUNNING, device.STOPPED),
    keys=jax.random.key_data(keys),
    limit=states.limit,
    held=jnp.zeros((states.last.shape[0], 0), bool),
  )
  batch = states.last.shape[0]

  def continues(carry):
    step, rows, *_ = carry
    return (step < count) & jnp.any(rows.end == device.RUNNING)

  def body(carry):
    step, rows, *columns = carry
    hidden, cache, logits, keys = device.read(model, held, rows, limits)
    new = picking.pick_by_row(states.parameters, logits, keys)
    asked = jnp.any(states.wants_alternatives & (rows.end == device.RUNNING))
    others = jax.lax.cond(asked, _alternatives, _none, logits)
    rows, new, logprob = device.advance(
      rows, cache, hidden, logits, new, limits
    )
    values = (new, logprob, *others)
    columns = [
      x.at[:, step].set(v) for x, v in zip(columns, values, strict=True)
    ]
    return step + 1, rows, *columns

  ints = jnp.zeros((batch, count), jnp.int32)
  many = jnp.zeros((batch, count, ALTERNATIVES), jnp.int32)
  columns = (ints, ints.astype(jnp.float32), many, many.astype(jnp.float32))
  start = (jnp.int32(0), rows, *columns)
  _, rows, *columns = jax.lax.while_loop(continues, body, start)
  # Replicated, so that the host can read them.
  whole = lambda x: rules.constrain(x, (None,) * x.ndim)
  ids, logprobs, *others = map(whole, columns)
  ended = Slice(ids, logprobs, whole(rows.count), whole(rows.end), *others)
  return rows.cache, ended


def _alternatives(logits):
  """Returns the most likely ids of logits [n, V], and log-probabilities."""
  k = min(ALTERNATIVES, logits.shape[-1])
  best, ids = jax.lax.top_k(logits, k)
  best -= jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  pad = ((0, 0), (0, ALTERNATIVES - k))
  return jnp.pad(ids, pad), jnp.pad(best, pad, constant_values=-jnp.inf)


def _none(logits):
  shape = (logits.shape[0], ALTERNATIVES)
  return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)


@struct.dataclass
class Scores:
  """Log-probabilities of the ids of a prompt, except the first.

  Attributes:
    logprobs: float32 [L], log-probability of the id after each position.
    finite: bool [L], whether the logits are finite.
    other_ids: int32 [L, ALTERNATIVES], the most likely ids after each position.
    other_logprobs: float32 [L, ALTERNATIVES], their log-probabilities.
  """

  logprobs: Array
  finite: Array
  other_ids: Array
  other_logprobs: Array


@functools.partial(jax.jit, static_argnums=0)
def score(
  model: family.Model,
  params: types.PyTree,
  held: decoding.Weights,
  tokens: Array,
  following: Array,
  lengths: Array,
  vocab_size: Array,
) -> tuple[decoding.Cache, Scores]:
  """Computes the cache of prompts and scores the ids of the first prompt.

  Args:
    model: the module.
    params: its parameters, in the form for training.
    held: its weights, in the form for decoding.
    tokens: int32 [P, L], padded on the right.
    following: int32 [L], the id after each id of the first prompt.
    lengths: int32 [P], number of tokens of each row.
    vocab_size: int32 [], number of ids of the tokenizer.

  Returns:
    A cache with L slots, and the scores of the first row.
  """
  hidden, cache = model.prefill(params, tokens, lengths)
  length = tokens.shape[1]
  size = min(_CHUNK, length)
  whole = -length % size
  hidden = jnp.pad(hidden[0], ((0, whole), (0, 0))).reshape(
    -1, size, hidden.shape[-1]
  )
  labels = jnp.pad(following, (0, whole)).reshape(-1, size)

  def score_chunk(chunk):
    hidden, labels = chunk
    logits = matmul.logits(hidden, held.unembedding)
    is_id = jnp.arange(logits.shape[-1]) < vocab_size
    logits = jnp.where(is_id, logits, -jnp.inf)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    finite = jnp.isfinite(log_normalizer)
    return picked - log_normalizer, finite, *_alternatives(logits)

  def none(chunk):
    return jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(score_chunk, chunk)
    )

  def score_used_chunk(chunk):
    start, *rest = chunk
    # Skips padding, which may be half of the row.
    return jax.lax.cond(start < lengths[0], score_chunk, none, tuple(rest))

  starts = jnp.arange(hidden.shape[0]) * size
  columns = jax.lax.map(score_used_chunk, (starts, hidden, labels))
  flat = (x.reshape(-1, *x.shape[2:])[:length] for x in columns)
  return cache, Scores(*(rules.constrain(x, (None,) * x.ndim) for x in flat))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def empty_cache(model: family.Model, batch: int, slots: int) -> decoding.Cache:
  """Returns an empty KV cache."""
  return model.empty_cache(batch, slots)


def insert_prompt(
  cache: decoding.Cache, prompts: decoding.Cache, row: int
) -> decoding.Cache:
  """Copies the first prefilled prompt to a row of a cache.

  Args:
    cache: the cache of the rows; donated.
    prompts: P rows, with as many slots as the longest prompts need.
    row: index of the row of `cache`.
  """
  return jax.tree.map(lambda x, new: _put(x, new, row), cache, prompts)


def resized(
  cache: decoding.Cache, model: family.Model, slots: int
) -> decoding.Cache:
  """Returns a cache with `slots` positions of the model.

  Args:
    cache: [B, M, ...]; positions beyond `slots` are dropped.
    model: the module.
    slots: number of positions.
  """
  like = jax.eval_shape(lambda: model.empty_cache(1, slots))
  return jax.tree.map(lambda x, to: _cut(x, to.shape[1]), cache, like)


def with_rows(cache: decoding.Cache, source: Array) -> decoding.Cache:
  """Returns a cache with row source[i] as row i; source is int32 [B']."""
  return jax.tree.map(lambda x: _rows(x, source), cache)


@functools.partial(jax.jit, donate_argnums=0)
def _put(x, new, row):
  slots = min(x.shape[1], new.shape[1])
  return _laid_out(x.at[row, :slots].set(new[0, :slots]))


@functools.partial(jax.jit, static_argnums=1)
def _cut(x, slots):
  x = x[:, :slots]
  return _laid_out(
    jnp.pad(x, ((0, 0), (0, slots - x.shape[1]), (0, 0), (0, 0)))
  )


@jax.jit
def _rows(x, source):
  return _laid_out(x[source])


def _laid_out(x):
  # The layout that `steps` returns; another one would compile it again.
  return rules.constrain(x, decoding.CACHE_AXES)
