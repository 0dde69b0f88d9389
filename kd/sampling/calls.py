"""One call of the engine: rows that are refilled as their answers end."""

from collections.abc import Iterator
import dataclasses

import jax
import numpy as np

from kd.core import errors
from kd.sampling import device
from kd.sampling import images as images_lib
from kd.sampling import picking
from kd.sampling import requests as requests_lib
from kd.sampling import stops

Sample = requests_lib.Sample

_ENDS = {device.STOPPED: 'stop', device.AT_LIMIT: 'length'}


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Sizes that programs are compiled for; they change no answer.

  Attributes:
    steps: tokens that each row decodes before the host looks at the rows. An
      ended row idles for half of them on average; a small number shows text
      early, a large one costs less time on the host.
    prompt: the shortest padded length of prompts, a power of two. Longer ones
      are padded to the next power of two.
    slots: the fewest positions that rows have room for, as far as the context
      has them: calls with shorter prompts and answers share a program.
  """

  steps: int = 16
  prompt: int = 16
  slots: int = 0

  def bucket(self, length: int, longest: int) -> int:
    """Returns the padded length of a prompt's ids but the last.

    Args:
      length: of the prompt.
      longest: of all prompts that leave room for their answers.
    """
    size = self.prompt
    while size < length - 1:
      size *= 2
    return min(size, max(longest - 1, 1))


@dataclasses.dataclass
class Answer:
  """An answer that grows in a row."""

  request: int
  sample: int
  ids: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)

  def grow(
    self,
    ids: np.ndarray,
    logprobs: np.ndarray,
    count: int,
    end: int,
    decode: stops.Decode,
    stop_strings: tuple[str, ...],
  ) -> Sample | None:
    """Adds what a slice of steps has picked.

    Args:
      ids: int32 [K], the row's ids; the stop id is among them.
      logprobs: float32 [K], of these.
      count: ids of the whole answer, without the stop id.
      end: why the row no longer decodes, see device.
      decode: ids to text.
      stop_strings: each of them ends the answer.

    Returns:
      The sample if the answer has ended, else None.

    Raises:
      NonFiniteError: the logits are NaN or infinite.
    """
    known = len(self.ids)
    new = count - known
    self.ids += ids[:new].tolist()
    self.logprobs += logprobs[:new].tolist()
    stopped = stops.end(decode, self.ids, known, stop_strings)
    if stopped:
      kept, text = stopped
      return self._sample(kept, text, 'stop')
    if end == device.BROKEN:
      raise errors.NonFiniteError(
        f'logits of prompt {self.request} are NaN or infinite after {count} '
        'new tokens'
      )
    if end == device.RUNNING:
      return None
    sample = self._sample(count, decode(self.ids), _ENDS[int(end)])
    if end != device.STOPPED:
      return sample
    return dataclasses.replace(
      sample, stop_id=int(ids[new]), stop_logprob=float(logprobs[new])
    )

  def _sample(self, count, text, finish):
    return Sample(
      tuple(self.ids[:count]), tuple(self.logprobs[:count]), text, finish
    )


@dataclasses.dataclass
class _Prompts:
  """Prefilled prompts, and the answers that have yet to begin with them."""

  cache: device.decoding.Cache
  tokens: np.ndarray
  waiting: Iterator[tuple[int, Answer]]  # with the row of `cache`


class Call:
  """One call of the engine: which row has which answer."""

  def __init__(self, model, words, batch_size, settings, shapes):
    self._model, self._words, self._settings = model, words, settings
    self._shapes = shapes
    self._batch_size = batch_size
    self._rule = picking.options(settings, model.config.vocab_size)
    self._numbers = picking.parameters(settings)
    self._limits = device.Limits(
      vocab_size=np.int32(words.size),
      stop_ids=np.asarray(words.stop_ids, np.int32),
      pad_id=np.int32(words.pad_id),
    )
    self._in_rows: list[Answer | None] = [None] * batch_size

  def start(self, params, weights, requests, indices, longest) -> None:
    """Lays rows out; the longest prompts come first, since they need most."""
    self._params, self._weights = params, weights
    self._requests = requests
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i in indices:
      size = self._shapes.bucket(len(requests[i].ids), longest[i])
      shape = size, images_lib.slots(len(requests[i].images))
      by_shape.setdefault(shape, []).append(i)
    # A prompt is padded as if it came alone: its bits don't depend on others.
    self._groups = iter(
      (shape[0], by_shape[shape][start : start + self._batch_size])
      for shape in sorted(by_shape, reverse=True)
      for start in range(0, len(by_shape[shape]), self._batch_size)
    )
    needed = max(by_shape)[0] + self._settings.max_new_tokens
    wanted = min(self._shapes.slots, self._model.config.context)
    slots = max(needed, wanted)
    self._rows = device.empty(
      self._model, self._batch_size, slots, self._rule.repeats
    )
    self._prompts = None

  def growing(self) -> list[Answer]:
    """Returns the answers that have not ended."""
    return [answer for answer in self._in_rows if answer is not None]

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
        self._shapes.steps,
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
    entries.limit[row] = requests_lib.limit(request, self._settings)
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
    images = images_lib.batch(
      [self._requests[index].images for index in group],
      *(*tokens.shape, self._model.config.vision),
    )
    cache = device.prefill(self._model, self._params, tokens, lengths, images)
    waiting = [
      (row, Answer(index, sample))
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
      sample = answer.grow(
        ids[row],
        logprobs[row],
        counts[row],
        ends[row],
        self._words.decode,
        self._settings.stop_strings,
      )
      if sample is not None:
        self._in_rows[row] = None
        ended.append((answer.request, answer.sample, sample))
    return ended
