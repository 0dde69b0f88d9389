"""Batched decoding with a KV cache, in one loop on the device."""

from collections.abc import Callable, Sequence
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from kd.core import errors
from kd.core import types
from kd.models import gemma3
from kd.partitioning import rules

Array = types.Array
PyTree = types.PyTree

# Prompts are padded to a power of two, so that few shapes are compiled.
SMALLEST_BUCKET = 16

# (logits float32 [B, V], rng) to ids int32 [B]. Ids that must never be produced
# have a logit of minus infinity.
Pick = Callable[[Array, Array], Array]


def greedy(logits: Array, rng: Array) -> Array:
  """The most likely id of each row of logits [B, V]: int32 [B]."""
  del rng  # Nothing is drawn.
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Completion:
  """What was generated for one prompt.

  Attributes:
    ids: the new ids, without the stop id.
    finished: a stop id was produced within the limit.
    too_long: the prompt leaves no room for the answer in the model's context:
      nothing was generated.
  """

  ids: list[int]
  finished: bool
  too_long: bool = False

  @property
  def truncated(self) -> bool:
    """The answer met the limit before a stop id."""
    return not self.finished and not self.too_long


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
  cache: gemma3.Cache


class Decoder:
  """Answers prompts with one model; compiles once for each prompt bucket."""

  def __init__(
      self,
      model: gemma3.Gemma3,
      vocab_size: int,
      stop_ids: Sequence[int],
      pad_id: int,
      max_new_tokens: int,
      batch_size: int,
      pick: Pick = greedy,
  ):
    """Builds the decoder.

    Args:
      model: the module; its dtype is that of the cache.
      vocab_size: ids of the tokenizer; the head's rows beyond it are never
        produced.
      stop_ids: each of them ends an answer.
      pad_id: what fills the input up.
      max_new_tokens: the most ids of an answer, its stop id included.
      batch_size: B, prompts that are answered together; a multiple of
        rules.row_parts where `generate` is called within rules.active.
      pick: chooses each next id.

    Raises:
      ConfigError: a size is not positive, the tokenizer has more ids than the
        model, or no prompt can leave room for `max_new_tokens`.
    """
    _check(model, vocab_size, max_new_tokens, batch_size)
    self._model = model
    self._vocab_size = vocab_size
    self._stop_ids = np.asarray(stop_ids, np.int32)
    self._pad_id = pad_id
    self._max_new_tokens = max_new_tokens
    self._batch_size = batch_size
    self._pick = pick
    self._longest_prompt = model.config.context - max_new_tokens
    self._to_compute_type = jax.jit(self._cast)
    self._decode = jax.jit(self._decode_batch)

  def generate(
      self,
      params: PyTree,
      prompts: Sequence[Sequence[int]],
      rng: Array | None = None,
      progress: Callable[[int, int], None] | None = None,
  ) -> list[Completion]:
    """Answers prompts.

    Args:
      params: of the model, float32, placed or sharded as they are.
      prompts: ids of each, BOS included.
      rng: what `pick` draws from; greedy needs none.
      progress: called after each batch with the number of prompts answered and
        the number of prompts.

    Returns:
      One Completion for each prompt, in the prompts' order.

    Raises:
      ValueError: a prompt is empty or holds an id that the model lacks.
      NonFiniteError: the model's logits are NaN or infinite.
    """
    self._check_prompts(prompts)
    rng = jax.random.key(0) if rng is None else rng
    params = self._to_compute_type(params)
    fits = [i for i, p in enumerate(prompts) if len(p) <= self._longest_prompt]
    # Like lengths together; the longest first, since it decides the memory.
    order = sorted(fits, key=lambda i: -len(prompts[i]))
    completions = [Completion([], False, too_long=True)] * len(prompts)
    for start in range(0, len(order), self._batch_size):
      indices = order[start:start + self._batch_size]
      answers = self._generate_batch(
          params, prompts, indices, jax.random.fold_in(rng, start)
      )
      for index, answer in zip(indices, answers, strict=True):
        completions[index] = answer
      if progress is not None:
        done = len(prompts) - len(order) + start + len(indices)
        progress(done, len(prompts))
    return completions

  def _generate_batch(self, params, prompts, indices, rng):
    longest = max(len(prompts[i]) for i in indices)
    tokens = np.full(
        (self._batch_size, self._bucket(longest)), self._pad_id, np.int32
    )
    # A filler row holds one pad token and counts as finished from the start.
    lengths = np.ones(self._batch_size, np.int32)
    filler = np.arange(self._batch_size) >= len(indices)
    for row, index in enumerate(indices):
      lengths[row] = len(prompts[index])
      tokens[row, :lengths[row]] = prompts[index]
    ids, counts, finished, broken = jax.device_get(
        self._decode(params, tokens, lengths, filler, rng)
    )
    if broken.any():
      row = int(np.argmax(broken))
      raise errors.NonFiniteError(
          f'logits of prompt {indices[row]} are NaN or infinite after'
          f' {counts[row]} new tokens'
      )
    return [
        Completion(ids[row, :counts[row]].tolist(), bool(finished[row]))
        for row in range(len(indices))
    ]

  def _bucket(self, length: int) -> int:
    """The padded length of a batch whose longest prompt has `length` ids."""
    size = SMALLEST_BUCKET
    while size < length:
      size *= 2
    return min(size, self._longest_prompt)

  def _cast(self, params: PyTree) -> PyTree:
    """The matrices in the activations' type, as the layers cast them.

    Once, where the loop would read and cast the float32 ones at every token.
    The norms' weights stay float32, since the layers use them so.
    """

    def cast(path, leaf):
      is_norm = path[-1].key == 'scale'
      return leaf if is_norm else leaf.astype(self._model.dtype)

    return jax.tree_util.tree_map_with_path(cast, params)

  def _decode_batch(self, params, tokens, lengths, filler, rng):
    """Prefills the cache with [B, L] prompts and decodes until all have ended.

    Args:
      params: of the model, cast.
      tokens: int32 [B, L], prompts padded on the right.
      lengths: int32 [B], ids in each prompt.
      filler: bool [B], rows that nobody asked for.
      rng: for `pick`.

    Returns:
      ids int32 [B, T], counts [B] of them before the stop id, finished bool [B],
      broken bool [B].
    """
    b, l = tokens.shape
    cache = gemma3.empty_cache(
        self._model.config, b, l + self._max_new_tokens, self._model.dtype
    )
    positions = jnp.broadcast_to(jnp.arange(l, dtype=jnp.int32), (b, l))
    segment_ids = (positions < lengths[:, None]).astype(jnp.int32)
    hidden, cache = self._model.apply(
        {'params': params}, tokens, positions, segment_ids, cache
    )
    state = _State(
        step=jnp.int32(0),
        ids=jnp.full((b, self._max_new_tokens), self._pad_id, jnp.int32),
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
        (state.step < self._max_new_tokens)
        & ~jnp.all(state.finished)
        & ~jnp.any(state.broken)
    )

  def _step(self, params, lengths, rng, state: _State) -> _State:
    """Reads the last id of each row and picks the next."""
    # A finished row goes on with pad tokens in its own cache; no one reads it.
    last = state.step - 1
    hidden, cache = self._model.apply(
        {'params': params},
        state.ids[:, last][:, None],
        (lengths + last)[:, None],
        jnp.ones_like(lengths)[:, None],
        state.cache,
    )
    return self._append(
        params, rng, state.replace(cache=cache), hidden[:, 0]
    )

  def _append(self, params, rng, state: _State, hidden: Array) -> _State:
    """Picks an id for each row from its last hidden state [B, D]."""
    logits, broken = self._logits(params, hidden)
    broken &= ~state.finished
    ids = self._pick(logits, jax.random.fold_in(rng, state.step))
    ids = jnp.where(state.finished, self._pad_id, ids)
    stops = jnp.any(ids[:, None] == self._stop_ids, axis=-1)
    finished = state.finished | stops
    return state.replace(
        step=state.step + 1,
        ids=state.ids.at[:, state.step].set(ids),
        counts=state.counts + ~(finished | broken),
        finished=finished,
        broken=broken,
    )

  def _logits(self, params, hidden: Array) -> tuple[Array, Array]:
    """Logits float32 [B, V] of hidden [B, D]; bool [B], which are not finite."""
    logits = jnp.einsum(
        'bd,vd->bv', hidden, params['embedding'],
        preferred_element_type=jnp.float32,
    )
    logits = rules.constrain(logits, ('batch', 'vocab'))
    # Rows beyond the tokenizer are untrained and may win. They are masked, not
    # cut off, so that a vocabulary sharded evenly stays so.
    is_id = jnp.arange(logits.shape[-1]) < self._vocab_size
    broken = jnp.any(is_id & ~jnp.isfinite(logits), axis=-1)
    return jnp.where(is_id, logits, -jnp.inf), broken

  def _check_prompts(self, prompts) -> None:
    vocab_size = self._model.config.vocab_size
    for i, prompt in enumerate(prompts):
      if not prompt:
        raise ValueError(f'prompt {i} is empty: it needs BOS at least')
      low, high = min(prompt), max(prompt)
      if low < 0 or high >= vocab_size:
        found = low if low < 0 else high
        raise ValueError(
            f'prompt {i} holds id {found}; the model has 0 to {vocab_size - 1}'
        )


def _check(model, vocab_size, max_new_tokens, batch_size) -> None:
  """Raises ConfigError where the decoder's sizes cannot work."""
  for name, value in (
      ('max_new_tokens', max_new_tokens), ('batch_size', batch_size)
  ):
    if value < 1:
      raise errors.ConfigError(
          f'evaluation.{name}', f'found {value}', legal='1 or more'
      )
  if vocab_size > model.config.vocab_size:
    raise errors.ConfigError(
        'tokenizer',
        f'has {vocab_size} ids, the model {model.config.vocab_size}',
        legal='a tokenizer with no more ids than the model',
    )
  if max_new_tokens >= model.config.context:
    raise errors.ConfigError(
        'evaluation.max_new_tokens',
        f'found {max_new_tokens}, which leaves no room for a prompt',
        legal=f'less than the context of {model.config.context}',
    )
