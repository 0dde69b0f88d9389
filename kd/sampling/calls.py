"""Runs one call of the engine; rows are refilled as their answers end."""

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
  """Sizes that programs are compiled for; they do not affect the answers.

  Attributes:
    steps: number of tokens that each row decodes before the host checks the
      rows. A finished row idles for half of them on average. A small number
      shows text early, a large one costs less time on the host.
    prompt: minimum padded length of prompts, a power of two. Longer prompts are
      padded to the next power of two.
    slots: minimum number of cache positions of each row, at most the context.
      Calls with shorter prompts and answers share a program.
  """

  steps: int = 16
  prompt: int = 16
  slots: int = 0

  def bucket(self, length: int, longest: int) -> int:
    """Returns the padded length of a prompt without its last id.

    Args:
      length: length of the prompt.
      longest: maximum length of a prompt.
    """
    size = self.prompt
    while size < length - 1:
      size *= 2
    return min(size, max(longest - 1, 1))


@dataclasses.dataclass
class Answer:
  """An unfinished answer in a row."""

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
    """Adds the ids that a slice of steps has picked.

    Args:
      ids: int32 [K], the ids of the row, including a stop id.
      logprobs: float32 [K], their log-probabilities.
      count: number of ids of the whole answer, without the stop id.
      end: why the row no longer decodes; see device.
      decode: converts ids to text.
      stop_strings: strings that end the answer.

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
  """Prefilled prompts, and their answers that have not started."""

  cache: device.decoding.Cache
  tokens: np.ndarray
  waiting: Iterator[tuple[int, Answer]]  # Pairs of a row of `cache`, an answer.


class Call:
  """One call of the engine; assigns answers to rows."""

  def __init__(self, model, vocabulary, batch_size, settings, shapes):
    self._model, self._vocabulary, self._settings = model, vocabulary, settings
    self._shapes = shapes
    self._batch_size = batch_size
    self._rule = picking.options(settings, model.config.vocab_size)
    self._numbers = picking.parameters(settings)
    self._limits = device.Limits(
      vocab_size=np.int32(vocabulary.size),
      stop_ids=np.asarray(vocabulary.stop_ids, np.int32),
      pad_id=np.int32(vocabulary.pad_id),
    )
    self._in_rows: list[Answer | None] = [None] * batch_size

  def start(self, params, weights, requests, indices, longest) -> None:
    """Groups the prompts, longest first, and allocates the rows."""
    self._params, self._weights = params, weights
    self._requests = requests
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i in indices:
      size = self._shapes.bucket(len(requests[i].ids), longest[i])
      shape = size, images_lib.slots(len(requests[i].images))
      by_shape.setdefault(shape, []).append(i)
    # Padding depends on the prompt only, so that its results do not depend on
    # other prompts.
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
    """Returns the unfinished answers."""
    return [answer for answer in self._in_rows if answer is not None]

  def run(self) -> Iterator[list[tuple[int, int, Sample]]]:
    """Yields (request, sample index, sample) of answers ended in each slice."""
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
    """Assigns waiting answers to idle rows, as long as there are both."""
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
    """Prefills the next group of prompts; returns False if there is none."""
    self._prompts = None  # Frees the previous cache first.
    size, group = next(self._groups, (0, []))
    if not group:
      return False
    tokens = np.full(
      (self._batch_size, size), self._vocabulary.pad_id, np.int32
    )
    lengths = np.zeros(self._batch_size, np.int32)
    for row, index in enumerate(group):
      # The first decoding step processes the last id and picks the next one.
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
    """Collects the new ids of the rows; returns and removes ended answers."""
    ended = []
    for row, answer in enumerate(self._in_rows):
      if answer is None:
        continue
      sample = answer.grow(
        ids[row],
        logprobs[row],
        counts[row],
        ends[row],
        self._vocabulary.decode,
        self._settings.stop_strings,
      )
      if sample is not None:
        self._in_rows[row] = None
        ended.append((answer.request, answer.sample, sample))
    return ended
