"""Decodes a batch that answers join and leave at any time."""

from collections.abc import Iterator, Sequence
import dataclasses

import jax
import numpy as np

from kd.core import errors
from kd.core import types
from kd.models import decoding
from kd.models import family
from kd.sampling import calls
from kd.sampling import continuous_device
from kd.sampling import continuous_shapes
from kd.sampling import device
from kd.sampling import engine
from kd.sampling import images as images_lib
from kd.sampling import picking
from kd.sampling import requests as requests_lib

Shapes = continuous_shapes.Shapes
ALTERNATIVES = continuous_device.ALTERNATIVES
# Number of slices that must fit a smaller batch before it shrinks, since
# copying takes time.
_PATIENCE = 8

# The most likely ids at a position and their log-probabilities, best first.
Alternatives = tuple[tuple[int, float], ...]


@dataclasses.dataclass(eq=False)
class Answer:
  """A requested answer and its state.

  Attributes:
    request: prompt and seed; see requests.Request.
    sample: index of the sample in the request.
    settings: sampling settings. Only temperature, top_p, min_p, max_new_tokens
      and stop_strings may differ from requests.greedy.
    wants_alternatives: whether to keep the most likely ids.
    grown: the ids and log-probabilities so far.
    alternatives: the alternatives to each id, and to a final stop id, if
      wanted.
    result: the sample; None until it has ended.
    stop_logprob: log-probability of the final stop id; None without one.
    error: the error that ended it; None without one.
  """

  request: requests_lib.Request
  sample: int
  settings: requests_lib.SamplingSettings
  wants_alternatives: bool = False
  grown: calls.Answer = dataclasses.field(
    default_factory=lambda: calls.Answer(0, 0)
  )
  alternatives: list[Alternatives] = dataclasses.field(default_factory=list)
  result: requests_lib.Sample | None = None
  stop_logprob: float | None = None
  error: errors.NonFiniteError | None = None

  @property
  def ended(self) -> bool:
    """Returns whether there is a result or an error."""
    return self.result is not None or self.error is not None


@dataclasses.dataclass
class Prefilled:
  """A prefilled prompt, shared by all of its answers.

  Attributes:
    ids: ids of the prompt.
    cache: its KV cache, for `ContinuousBatch.add`.
    logprobs: log-probability at temperature 1 of each id after the first; () if
      not scored.
    alternatives: the most likely ids at these positions; () if not scored.
  """

  ids: tuple[int, ...]
  cache: decoding.Cache
  logprobs: tuple[float, ...] = ()
  alternatives: tuple[Alternatives, ...] = ()


class ContinuousBatch:
  """Decodes answers that begin and end at different times.

  An answer depends on its request and settings, and not on the other answers in
  the batch. Not thread-safe; use it within rules.active of the model's mesh.
  """

  def __init__(
    self,
    model: family.Model,
    params: types.PyTree,
    vocabulary: engine.Vocabulary,
    shapes: Shapes,
  ):
    """Initializes an empty batch.

    Args:
      model: the module; the cache has its dtype.
      params: its parameters.
      vocabulary: the vocabulary of the tokenizer.
      shapes: sizes that programs are compiled for.
    """
    self._model, self._params, self._vocabulary = model, params, vocabulary
    self.shapes = shapes
    self._weights = device.weights(model, params)
    self._limits = device.Limits(
      vocab_size=np.int32(vocabulary.size),
      stop_ids=np.asarray(vocabulary.stop_ids, np.int32),
      pad_id=np.int32(vocabulary.pad_id),
    )
    self._rows: list[Answer | None] = [None] * shapes.batches[0]
    self._slots = shapes.slots[0]
    self._cache = self._empty(len(self._rows), self._slots)
    self._idle_slices = 0

  @property
  def answers(self) -> list[Answer]:
    """Returns the unfinished answers."""
    return [answer for answer in self._rows if answer is not None]

  @property
  def room(self) -> int:
    """Returns the number of answers that can still be added."""
    return self.shapes.batch - len(self.answers)

  def compile(self) -> Iterator[tuple[int, int]]:
    """Compiles all programs.

    Yields:
      The number of compiled programs, and the total number.
    """
    sizes = self.shapes
    vision = self._model.config.vision
    with_images = sizes.image_prompts(vision.soft_tokens) if vision else []
    total = len(sizes.prompts) * 2 + len(sizes.batches) * len(sizes.slots)
    total += len(with_images)
    done = 0
    for length in sizes.prompts:
      ids = (0,) * (length if length == sizes.length else length + 1)
      for scored in (False, True):
        prompt = self.prefill(ids[: sizes.length], scored)
        done += 1
        yield done, total
    for length, count in with_images:
      black = np.zeros((vision.image_size, vision.image_size, 3), np.uint8)
      starts = range(0, count * vision.soft_tokens, vision.soft_tokens)
      images = [images_lib.Image(start, black) for start in starts]
      self.prefill((0,) * length, images=images)
      done += 1
      yield done, total
    for batch in sizes.batches:
      for slots in sizes.slots:
        self._resize(batch, slots)
        self._cache = continuous_device.insert_prompt(
          self._cache, prompt.cache, 0
        )
        self._decode()
        done += 1
        yield done, total
        for other in sizes.batches:
          source = np.zeros(other, np.int32)
          continuous_device.with_rows(self._cache, source)
        for other in sizes.slots:
          self._fitted(self._cache, other)
    self._resize(sizes.batches[0], sizes.slots[0])

  def reset(self) -> None:
    """Drops all answers after an error and runs the programs once.

    Raises:
      Exception: prefill or decoding fails again.
    """
    self._cache = None  # Freed first, in case the device is out of memory.
    self._rows = [None] * self.shapes.batches[0]
    self._slots, self._idle_slices = self.shapes.slots[0], 0
    self._cache = self._empty(len(self._rows), self._slots)
    prompt = self.prefill((0,) * 2)
    self._cache = continuous_device.insert_prompt(self._cache, prompt.cache, 0)
    self._decode()

  def prefill(
    self,
    ids: Sequence[int],
    scored: bool = False,
    images: Sequence[images_lib.Image] = (),
  ) -> Prefilled:
    """Prefills a prompt.

    Args:
      ids: ids of the prompt, from 1 to shapes.length of them.
      scored: whether to compute the log-probabilities of the ids as well.
      images: images of the prompt, at most shapes.images; none if it is scored.

    Raises:
      NonFiniteError: the prompt is scored, and logits are NaN or infinite.
      ValueError: the model cannot read the images.
      ConfigError: an image cannot be decoded.
    """
    vision = self._model.config.vision
    images_lib.check(ids, images, vision)
    # The first decoding step processes the last id.
    length = len(ids) - 1
    size = min(s for s in self.shapes.prompts if s >= length)
    shape = (self.shapes.rows, size)
    tokens = np.full(shape, self._vocabulary.pad_id, np.int32)
    lengths = np.zeros(self.shapes.rows, np.int32)
    tokens[0, :length], lengths[0] = ids[:-1], length
    if not scored:
      arrays = images_lib.batch([images], *shape, vision)
      cache = device.prefill(self._model, self._params, tokens, lengths, arrays)
      return Prefilled(tuple(ids), self._fitted(cache, self.shapes.length))
    if images:
      raise ValueError('prompts with images are not scored')
    following = np.zeros(size, np.int32)
    following[:length] = ids[1:]
    cache, scores = continuous_device.score(
      *(self._model, self._params, self._weights, tokens, following),
      *(lengths, self._limits.vocab_size),
    )
    scores = jax.device_get(scores)
    if not scores.finite[:length].all():
      raise errors.NonFiniteError('logits of a prompt are NaN or infinite')
    return Prefilled(
      tuple(ids),
      self._fitted(cache, self.shapes.length),
      tuple(scores.logprobs[:length].tolist()),
      tuple(
        map(
          _alternatives,
          scores.other_ids[:length],
          scores.other_logprobs[:length],
        )
      ),
    )

  def add(self, answer: Answer, prompt: Prefilled) -> None:
    """Adds an answer to the batch.

    Args:
      answer: the answer; it has at most shapes.length ids with its prompt.
      prompt: the prefilled prompt of its request.

    Raises:
      ValueError: the batch is full.
    """
    if not self.room:
      raise ValueError('the batch is full')
    needed = len(prompt.ids) + self.shapes.steps
    self._fit(len(self.answers) + 1, needed)
    row = self._rows.index(None)
    self._cache = continuous_device.insert_prompt(
      self._cache, prompt.cache, row
    )
    self._rows[row] = answer

  def remove(self, answer: Answer) -> None:
    """Removes an answer if it has not ended."""
    if answer in self._rows:
      self._rows[self._rows.index(answer)] = None

  def step(self) -> list[Answer]:
    """Decodes a few tokens of each answer.

    Returns:
      All answers of the batch before the step; ended ones are removed from it.
    """
    answers = self.answers
    if not answers:
      return []
    self._fit(
      len(answers), max(map(_position, answers)) + 1 + self.shapes.steps
    )
    got = self._decode()
    for row, answer in enumerate(self._rows):
      if answer is None:
        continue
      _grow(answer, got, row, self._vocabulary.decode)
      if answer.ended:
        self._rows[row] = None
    return answers

  def _decode(self) -> continuous_device.Slice:
    self._cache, got = continuous_device.steps(
      *(self._model, self._weights, self._cache, _states(self._rows)),
      *(self._limits, self.shapes.steps),
    )
    return jax.device_get(got)

  def _fit(self, answers: int, positions: int) -> None:
    """Grows the batch at once if needed; shrinks it after some slices."""
    for answer in self.answers:
      positions = max(positions, _position(answer) + 1 + self.shapes.steps)
    positions = min(positions, self.shapes.length)
    batch = min(b for b in self.shapes.batches if b >= answers)
    slots = min(s for s in self.shapes.slots if s >= positions)
    if batch > len(self._rows) or slots > self._slots:
      batch, slots = max(batch, len(self._rows)), max(slots, self._slots)
    elif (batch, slots) == (len(self._rows), self._slots):
      self._idle_slices = 0
      return
    elif self._idle_slices < _PATIENCE:
      self._idle_slices += 1
      return
    self._resize(batch, slots)

  def _resize(self, batch: int, slots: int) -> None:
    """Moves the answers to a batch of a different size."""
    self._idle_slices = 0
    if batch != len(self._rows):
      kept = [row for row, answer in enumerate(self._rows) if answer]
      source = np.zeros(batch, np.int32)
      source[: len(kept)] = kept
      self._cache = continuous_device.with_rows(self._cache, source)
      answers = self.answers
      self._rows = answers + [None] * (batch - len(answers))
    if slots != self._slots:
      self._cache = self._fitted(self._cache, slots)
      self._slots = slots

  def _fitted(self, cache, slots):
    return continuous_device.resized(cache, self._model, slots)

  def _empty(self, batch, slots):
    return continuous_device.empty_cache(self._model, batch, slots)


def _position(answer: Answer) -> int:
  """Returns the position of the id that is processed next."""
  return len(answer.request.ids) - 1 + len(answer.grown.ids)


def _states(rows: Sequence[Answer | None]) -> continuous_device.RowStates:
  """Returns the states that the rows continue from."""
  batch = len(rows)
  zeros = lambda *more, dtype=np.int32: np.zeros((batch, *more), dtype)
  one = np.ones(batch, np.float32)
  states = continuous_device.RowStates(
    *(zeros(), zeros(), zeros(), zeros(), zeros(dtype=bool)),
    *(zeros(2, dtype=np.uint32), zeros(), zeros(dtype=bool)),
    picking.Parameters(0 * one, one.copy(), 0 * one, one.copy()),
  )
  for row, answer in enumerate(rows):
    if answer is None:
      continue
    request, settings = answer.request, answer.settings
    ids = answer.grown.ids or request.ids
    states.last[row], states.position[row] = ids[-1], _position(answer)
    states.count[row] = len(answer.grown.ids)
    states.limit[row] = requests_lib.limit(request, settings)
    states.live[row] = True
    states.seed[row] = divmod(request.seed % 2**64, 2**32)
    states.sample[row] = answer.sample
    states.wants_alternatives[row] = answer.wants_alternatives
    for name in ('temperature', 'top_p', 'min_p'):
      getattr(states.parameters, name)[row] = getattr(settings, name)
  return states


def _grow(answer, got, row, decode):
  """Adds the results of a row to its answer."""
  known = len(answer.grown.ids)
  try:
    answer.result = answer.grown.grow(
      got.ids[row],
      got.logprobs[row],
      int(got.count[row]),
      int(got.end[row]),
      decode,
      answer.settings.stop_strings,
    )
  except errors.NonFiniteError as e:
    answer.error = e
  new = len(answer.grown.ids) - known
  if answer.result and answer.result.stop_id is not None:
    answer.stop_logprob = float(got.logprobs[row, new])
    new += 1
  if answer.wants_alternatives:
    answer.alternatives += map(
      _alternatives, got.other_ids[row, :new], got.other_logprobs[row, :new]
    )


def _alternatives(ids, logprobs) -> Alternatives:
  known = logprobs > -np.inf  # A tokenizer may have few ids.
  return tuple(zip(ids[known].tolist(), logprobs[known].tolist(), strict=True))
