"""The sampler: requests to samples, with rows that are refilled as they end."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import jax
import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import tokenizers
from kd.models import gemma3
from kd.sampling import device
from kd.sampling import picking
from kd.sampling import requests as requests_lib
from kd.sampling import stops

Request = requests_lib.Request
Sample = requests_lib.Sample
Settings = requests_lib.Settings
Progress = Callable[[int, int], None]

# Prompts are padded to a power of two, so that few shapes are compiled.
_SMALLEST_BUCKET = 16
# Between two looks of the host at the rows: an ended one idles for half of them
# on average.
_STEPS = 16

_ENDS = {device.STOPPED: 'stop', device.AT_LIMIT: 'length'}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What the engine has to know of a tokenizer.

  Attributes:
    size: its ids; the head's rows beyond them are never produced.
    stop_ids: each of them ends an answer.
    pad_id: what fills rows up.
    decode: ids to text.
  """

  size: int
  stop_ids: tuple[int, ...]
  pad_id: int
  decode: stops.Decode


def vocabulary(tokenizer: tokenizers.Tokenizer) -> Vocabulary:
  """A tokenizer's Vocabulary."""
  return Vocabulary(
    tokenizer.vocab_size,
    tuple(tokenizer.stop_ids),
    tokenizer.pad_id,
    tokenizer.decode,
  )


def check_room(model: gemma3.Gemma3, max_new_tokens: int, path: str) -> None:
  """Refuses answers so long that no prompt leaves room for them.

  Raises:
    ConfigError: names `path`, the field that says how long they may be.
  """
  if max_new_tokens >= model.config.context:
    raise errors.ConfigError(
      path,
      f'found {max_new_tokens}, which leaves no room for a prompt',
      legal=f'less than the context of {model.config.context}',
    )


class Engine:
  """Samples from one model, whose parameters may change between calls.

  A program is compiled for each bucket of prompts, and one that decodes for the
  longest of a call. What is drawn depends on a request's ids, seed and sample,
  and on nothing else of the call.
  """

  def __init__(
    self, model: gemma3.Gemma3, words: Vocabulary, batch_size: int
  ) -> None:
    """Builds the engine.

    Args:
      model: the module; its dtype is that of the cache.
      words: of the tokenizer.
      batch_size: B, answers that grow together; a multiple of rules.row_parts
        within rules.active.

    Raises:
      ConfigError: the tokenizer has more ids than the model, or batch_size is
        not positive.
    """
    if words.size > model.config.vocab_size:
      raise errors.ConfigError(
        'tokenizer',
        f'has {words.size} ids, the model {model.config.vocab_size}',
        legal='a tokenizer with no more ids than the model',
      )
    if batch_size < 1:
      raise errors.ConfigError(
        'batch_size', f'found {batch_size}', legal='1 or more'
      )
    self._model, self._words, self._batch_size = model, words, batch_size

  def generate(
    self,
    params: types.PyTree,
    requests: Sequence[Request],
    settings: Settings,
    progress: Progress | None = None,
  ) -> list[list[Sample]]:
    """All requests' samples, in the requests' order.

    Args:
      params: of the model, float32, placed or sharded as they are.
      requests: in any number and of any lengths.
      settings: of all of them.
      progress: called with samples that are done and all samples.

    Raises:
      ValueError: a prompt is empty or holds an id that the model lacks.
      NonFiniteError: the model's logits are NaN or infinite.
    """
    found = dict(self.stream(params, requests, settings, progress))
    return [found[i] for i in range(len(requests))]

  def stream(
    self,
    params: types.PyTree,
    requests: Sequence[Request],
    settings: Settings,
    progress: Progress | None = None,
  ) -> Iterator[tuple[int, list[Sample]]]:
    """As `generate`, but each request's samples as soon as they are done.

    Yields:
      The request's index, and its samples. Prompts that are too long come
      first.
    """
    self._check(requests)
    context = self._model.config.context
    longest = [context - limit(request, settings) for request in requests]
    fits = [i for i, r in enumerate(requests) if len(r.ids) <= longest[i]]
    total = sum(request.samples for request in requests)
    done = 0
    for i in sorted(set(range(len(requests))) - set(fits)):
      done += requests[i].samples
      yield i, [Sample((), (), '', 'too_long')] * requests[i].samples
    if progress is not None and done:
      progress(done, total)
    if not fits:
      return
    call = _Call(self._model, self._words, self._batch_size, settings)
    call.start(params, requests, fits, longest)
    found: dict[int, dict[int, Sample]] = {i: {} for i in fits}
    for ended in call.run():
      for index, number, sample in ended:
        found[index][number] = sample
        done += 1
        if len(found[index]) == requests[index].samples:
          yield index, [found[index][n] for n in range(len(found[index]))]
      if progress is not None:
        progress(done, total)

  def _check(self, requests) -> None:
    vocab_size = self._model.config.vocab_size
    for i, request in enumerate(requests):
      if not request.ids:
        raise ValueError(f'prompt {i} is empty: it needs BOS at least')
      if request.samples < 1:
        raise ValueError(f'request {i} wants {request.samples} samples')
      if request.max_new_tokens is not None and request.max_new_tokens < 1:
        raise ValueError(f'request {i} has no room for an answer')
      low, high = min(request.ids), max(request.ids)
      if low < 0 or high >= vocab_size:
        found = low if low < 0 else high
        raise ValueError(
          f'prompt {i} holds id {found}; the model has 0 to {vocab_size - 1}'
        )


@dataclasses.dataclass
class _Answer:
  """An answer that grows in a row."""

  request: int
  sample: int
  ids: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Prompts:
  """Prefilled prompts, and the answers that have yet to begin with them."""

  cache: device.decoding.Cache
  tokens: np.ndarray
  waiting: Iterator[tuple[int, _Answer]]  # with the row of `cache`


class _Call:
  """One call of the engine: which row has which answer."""

  def __init__(self, model, words, batch_size, settings):
    self._model, self._words, self._settings = model, words, settings
    self._batch_size = batch_size
    self._rule = picking.rule(settings, model.config.vocab_size)
    self._numbers = picking.numbers(settings)
    self._limits = device.Limits(
      vocab_size=np.int32(words.size),
      stop_ids=np.asarray(words.stop_ids, np.int32),
      pad_id=np.int32(words.pad_id),
    )
    self._in_rows: list[_Answer | None] = [None] * batch_size

  def start(self, params, requests, indices, longest) -> None:
    """Lays rows out; the longest prompts come first, since they need most."""
    self._params, self._requests = params, requests
    self._weights = device.weights(self._model, params)
    by_bucket: dict[int, list[int]] = {}
    for i in indices:
      bucket = _bucket(len(requests[i].ids), longest[i])
      by_bucket.setdefault(bucket, []).append(i)
    # A prompt is padded as if it came alone: its bits don't depend on others.
    self._groups = iter(
      (size, by_bucket[size][start : start + self._batch_size])
      for size in sorted(by_bucket, reverse=True)
      for start in range(0, len(by_bucket[size]), self._batch_size)
    )
    slots = max(by_bucket) + self._settings.max_new_tokens
    self._rows = device.empty(
      self._model, self._batch_size, slots, self._rule.repeats
    )
    self._prompts = None

  def run(self) -> Iterator[list[tuple[int, int, Sample]]]:
    """Yields after each slice what has ended: (request, sample, it)."""
    while True:
      self._refill()
      if not any(self._in_rows):
        return
      self._rows, ids, logprobs = device.steps(
        self._model,
        self._rule,
        self._weights,
        self._rows,
        self._numbers,
        self._limits,
        np.asarray([answer is not None for answer in self._in_rows]),
        _STEPS,
      )
      yield self._harvest(
        *jax.device_get((ids, logprobs, self._rows.count, self._rows.end))
      )

  def _refill(self) -> None:
    """Gives idle rows the answers that wait, as long as there are both."""
    idle = [n for n, answer in enumerate(self._in_rows) if answer is None]
    while idle:
      entries = self._entries()
      while idle:
        following = self._prompts and next(self._prompts.waiting, None)
        if not following:
          break
        self._enter(entries, idle.pop(0), *following)
      if entries.take.any():
        self._rows = device.insert(
          self._rows, self._prompts.cache, self._prompts.tokens, entries
        )
      if idle and not self._prefill():
        return

  def _entries(self):
    zeros = lambda *more, dtype=np.int32: np.zeros(
      (self._batch_size, *more), dtype
    )
    return device.Entries(
      take=zeros(dtype=bool),
      source=zeros(),
      last=zeros(),
      position=zeros(),
      seed=zeros(2, dtype=np.uint32),
      sample=zeros(),
      limit=zeros(),
    )

  def _enter(self, entries, row, source, answer) -> None:
    request = self._requests[answer.request]
    entries.take[row], entries.source[row] = True, source
    entries.last[row] = request.ids[-1]
    entries.position[row] = len(request.ids) - 1
    entries.seed[row] = divmod(request.seed % 2**64, 2**32)
    entries.sample[row] = answer.sample
    entries.limit[row] = limit(request, self._settings)
    self._in_rows[row] = answer

  def _prefill(self) -> bool:
    """Reads the next group of prompts; False if there is none."""
    self._prompts = None  # Before there are others: each takes memory.
    size, group = next(self._groups, (0, []))
    if not group:
      return False
    tokens = np.full((self._batch_size, size), self._words.pad_id, np.int32)
    lengths = np.zeros(self._batch_size, np.int32)
    for row, index in enumerate(group):
      # The last id is read by the first step, which picks what follows it.
      *read, _ = self._requests[index].ids
      lengths[row] = len(read)
      tokens[row, : len(read)] = read
    cache = device.prefill(self._model, self._params, tokens, lengths)
    waiting = [
      (row, _Answer(index, sample))
      for row, index in enumerate(group)
      for sample in range(self._requests[index].samples)
    ]
    self._prompts = _Prompts(cache, tokens, iter(waiting))
    return True

  def _harvest(self, ids, logprobs, counts, ends):
    """Takes what the rows have got; ended answers leave them."""
    ended = []
    for row, answer in enumerate(self._in_rows):
      if answer is None:
        continue
      known = len(answer.ids)
      new = counts[row] - known
      answer.ids += ids[row, :new].tolist()
      answer.logprobs += logprobs[row, :new].tolist()
      found = stops.end(
        self._words.decode, answer.ids, known, self._settings.stop_strings
      )
      if found:
        count, text = found
        ended.append(self._leave(row, count, text, 'stop'))
      elif ends[row] == device.BROKEN:
        raise errors.NonFiniteError(
          f'logits of prompt {answer.request} are NaN or infinite after'
          f' {counts[row]} new tokens'
        )
      elif ends[row] != device.RUNNING:
        text = self._words.decode(answer.ids)
        stopped = ends[row] == device.STOPPED
        ended.append(
          self._leave(
            row,
            len(answer.ids),
            text,
            _ENDS[int(ends[row])],
            int(ids[row, new]) if stopped else None,
          )
        )
    return ended

  def _leave(self, row, count, text, finish, stop_id=None):
    answer = self._in_rows[row]
    self._in_rows[row] = None
    sample = Sample(
      tuple(answer.ids[:count]),
      tuple(answer.logprobs[:count]),
      text,
      finish,
      stop_id,
    )
    return answer.request, answer.sample, sample


def limit(request: Request, settings: Settings) -> int:
  """Returns the most ids of an answer to a request."""
  if request.max_new_tokens is None:
    return settings.max_new_tokens
  return min(request.max_new_tokens, settings.max_new_tokens)


def _bucket(length: int, longest: int) -> int:
  """The padded length of a prompt's ids but the last."""
  size = _SMALLEST_BUCKET
  while size < length - 1:
    size *= 2
  return min(size, max(longest - 1, 1))
