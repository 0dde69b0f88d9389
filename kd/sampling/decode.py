"""Batched decoding with a KV cache, in one loop on the device."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import jax
import numpy as np

from kd.core import errors
from kd.core import types
from kd.models import gemma3
from kd.sampling import loop

# Prompts are padded to a power of two, so that few shapes are compiled.
SMALLEST_BUCKET = 16

# Equal decoders share what is compiled.
_cast = jax.jit(loop.Loop.cast, static_argnums=0)
_run = jax.jit(loop.Loop.run, static_argnums=0)


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
    pick: loop.Pick = loop.greedy,
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
        rules.row_parts fills all devices within rules.active.
      pick: chooses each next id.

    Raises:
      ConfigError: a size is not positive, the tokenizer has more ids than the
        model, or no prompt can leave room for `max_new_tokens`.
    """
    _check(model, vocab_size, max_new_tokens, batch_size)
    self._model = model
    self._pad_id = pad_id
    self._batch_size = batch_size
    self._longest_prompt = model.config.context - max_new_tokens
    self._loop = loop.Loop(
      model, vocab_size, tuple(stop_ids), pad_id, max_new_tokens, pick
    )

  def generate(
    self,
    params: types.PyTree,
    prompts: Sequence[Sequence[int]],
    rng: types.Array | None = None,
    progress: Callable[[int, int], None] | None = None,
  ) -> list[Completion]:
    """Answers prompts; see `stream` for arguments and errors.

    Args:
      params: of the model.
      prompts: ids of each.
      rng: what `pick` draws from.
      progress: called after each batch with the number of prompts answered and
        the number of prompts.

    Returns:
      One Completion for each prompt, in the prompts' order.
    """
    completions = {}
    for batch in self.stream(params, prompts, rng):
      completions.update(batch)
      if progress is not None:
        progress(len(completions), len(prompts))
    return [completions[i] for i in range(len(prompts))]

  def stream(
    self,
    params: types.PyTree,
    prompts: Sequence[Sequence[int]],
    rng: types.Array | None = None,
  ) -> Iterator[dict[int, Completion]]:
    """Answers prompts batch by batch, the longest first.

    Args:
      params: of the model, float32, placed or sharded as they are.
      prompts: ids of each, BOS included.
      rng: what `pick` draws from; greedy needs none.

    Yields:
      The completions of a batch by their prompts' indices. Prompts that are too
      long come first.

    Raises:
      ValueError: a prompt is empty or holds an id that the model lacks.
      NonFiniteError: the model's logits are NaN or infinite.
    """
    self._check_prompts(prompts)
    rng = jax.random.key(0) if rng is None else rng
    # The longest first, since they decide the memory; like lengths together.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    fits = [i for i in order if len(prompts[i]) <= self._longest_prompt]
    too_long = order[: len(order) - len(fits)]
    if too_long:
      yield {i: Completion([], False, too_long=True) for i in too_long}
    if not fits:
      return
    params = _cast(self._loop, params)
    for start in range(0, len(fits), self._batch_size):
      indices = fits[start : start + self._batch_size]
      answers = self._generate_batch(
        params, prompts, indices, jax.random.fold_in(rng, start)
      )
      yield dict(zip(indices, answers, strict=True))

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
      tokens[row, : lengths[row]] = prompts[index]
    ids, counts, finished, broken = jax.device_get(
      _run(self._loop, params, tokens, lengths, filler, rng)
    )
    if broken.any():
      row = int(np.argmax(broken))
      raise errors.NonFiniteError(
        f'logits of prompt {indices[row]} are NaN or infinite after'
        f' {counts[row]} new tokens'
      )
    return [
      Completion(ids[row, : counts[row]].tolist(), bool(finished[row]))
      for row in range(len(indices))
    ]

  def _bucket(self, length: int) -> int:
    """The padded length of a batch whose longest prompt has `length` ids."""
    size = SMALLEST_BUCKET
    while size < length:
      size *= 2
    return min(size, self._longest_prompt)

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
    ('max_new_tokens', max_new_tokens),
    ('batch_size', batch_size),
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
