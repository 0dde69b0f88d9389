"""The sampler: requests to samples, by one model."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

from kd.core import errors
from kd.core import types
from kd.input_pipeline import tokenizers
from kd.models import decoding
from kd.models import family
from kd.sampling import calls
from kd.sampling import device
from kd.sampling import images as images_lib
from kd.sampling import requests as requests_lib
from kd.sampling import stops

Request = requests_lib.Request
Sample = requests_lib.Sample
Settings = requests_lib.SamplingSettings
Shapes = calls.Shapes
Progress = Callable[[int, int], None]
# Called with a request's index, the sample's number and its ids so far.
Watch = Callable[[int, int, Sequence[int]], None]

SHAPES = Shapes()


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
  """Returns a tokenizer's Vocabulary."""
  return Vocabulary(
    tokenizer.vocab_size,
    tuple(tokenizer.stop_ids),
    tokenizer.pad_id,
    tokenizer.decode,
  )


def check_room(model: family.Model, max_new_tokens: int, path: str) -> None:
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
  longest of a call. What is drawn depends on a request's ids, images, seed and
  sample, and on nothing else of the call.
  """

  def __init__(
    self,
    model: family.Model,
    words: Vocabulary,
    batch_size: int,
    shapes: Shapes = SHAPES,
  ) -> None:
    """Builds the engine.

    Args:
      model: the module; its dtype is that of the cache.
      words: of the tokenizer.
      batch_size: B, answers that grow together; a multiple of rules.row_shards
        within rules.active.
      shapes: sizes that programs are compiled for.

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
    self._shapes = shapes

  def weights(self, params: types.PyTree) -> decoding.Weights:
    """Returns the parameters as decoding reads them, for `stream`.

    A caller that keeps them saves each call of `stream` the conversion, at the
    cost of their memory.
    """
    return device.weights(self._model, params)

  def bucket(self, request: Request, settings: Settings) -> int:
    """Returns the padded length of a prompt; each length has its own program.

    Args:
      request: a request whose prompt leaves room for an answer.
      settings: the sampling settings of the call.
    """
    return self._shapes.bucket(
      len(request.ids), self._longest(request, settings)
    )

  def compile(
    self,
    params: types.PyTree,
    requests: Sequence[Request],
    settings: Settings,
  ) -> None:
    """Compiles what calls with such requests run; answers get one token each.

    A call's program that decodes has room for its longest prompt: requests are
    compiled together with the longest that they are called with.

    Args:
      params: as for `generate`.
      requests: one of each bucket.
      settings: of the calls.
    """
    self._check(requests)
    longest = [self._longest(request, settings) for request in requests]
    call = calls.Call(
      self._model, self._words, self._batch_size, settings, self._shapes
    )
    short = [dataclasses.replace(r, max_new_tokens=1) for r in requests]
    weights = self.weights(params)
    call.start(params, weights, short, range(len(short)), longest)
    for _ in call.run():
      pass

  def _longest(self, request, settings) -> int:
    """Returns the most ids that a prompt may have."""
    limit = requests_lib.limit(request, settings)
    return self._model.config.context - limit

  def generate(
    self,
    params: types.PyTree,
    requests: Sequence[Request],
    settings: Settings,
    progress: Progress | None = None,
  ) -> list[list[Sample]]:
    """Returns all requests' samples, in the requests' order.

    Args:
      params: of the model, float32, placed or sharded as they are.
      requests: in any number and of any lengths.
      settings: of all of them.
      progress: called with samples that are done and all samples.

    Raises:
      ValueError: a prompt is empty or holds an id that the model lacks, or
        images that it cannot read.
      ConfigError: an image cannot be decoded.
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
    watch: Watch | None = None,
    weights: decoding.Weights | None = None,
  ) -> Iterator[tuple[int, list[Sample]]]:
    """As `generate`, but each request's samples as soon as they are done.

    Args:
      params: as for `generate`.
      requests: as for `generate`.
      settings: as for `generate`.
      progress: as for `generate`.
      watch: called after each slice of steps for every answer that has not
        ended. What it raises ends the call.
      weights: the result of `weights(params)`; None: `stream` calls it.

    Yields:
      The request's index, and its samples. Prompts that are too long come
      first.
    """
    self._check(requests)
    longest = [self._longest(request, settings) for request in requests]
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
    call = calls.Call(
      self._model, self._words, self._batch_size, settings, self._shapes
    )
    if weights is None:
      weights = self.weights(params)
    call.start(params, weights, requests, fits, longest)
    found: dict[int, dict[int, Sample]] = {i: {} for i in fits}
    for ended in call.run():
      for answer in call.growing() if watch is not None else ():
        watch(answer.request, answer.sample, answer.ids)
      for index, number, sample in ended:
        found[index][number] = sample
        done += 1
        if len(found[index]) == requests[index].samples:
          yield index, [found[index][n] for n in range(len(found[index]))]
      if progress is not None:
        progress(done, total)

  def _check(self, requests) -> None:
    vocab_size = self._model.config.vocab_size
    vision = self._model.config.vision
    for i, request in enumerate(requests):
      if not request.ids:
        raise ValueError(f'prompt {i} is empty: it needs BOS at least')
      if request.samples < 1:
        raise ValueError(f'request {i} wants {request.samples} samples')
      if request.max_new_tokens is not None and request.max_new_tokens < 1:
        raise ValueError(f'request {i} has no room for an answer')
      images_lib.check(request.ids, request.images, vision)
      ids = images_lib.text_ids(request.ids, request.images, vision)
      low, high = min(ids), max(ids)
      if low < 0 or high >= vocab_size:
        found = low if low < 0 else high
        raise ValueError(
          f'prompt {i} holds id {found}; the model has 0 to {vocab_size - 1}'
        )
