"""Samples answers to requests from one model."""

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
# Called with the request's index, the sample's index and its ids so far.
Watch = Callable[[int, int, Sequence[int]], None]

SHAPES = Shapes()


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The properties of a tokenizer that the engine needs.

  Attributes:
    size: number of ids; larger ids are never produced.
    stop_ids: ids that end an answer.
    pad_id: the padding id.
    decode: converts ids to text.
  """

  size: int
  stop_ids: tuple[int, ...]
  pad_id: int
  decode: stops.Decode


def vocabulary(tokenizer: tokenizers.Tokenizer) -> Vocabulary:
  """Returns the Vocabulary of a tokenizer."""
  return Vocabulary(
    tokenizer.vocab_size,
    tuple(tokenizer.stop_ids),
    tokenizer.pad_id,
    tokenizer.decode,
  )


def check_room(model: family.Model, max_new_tokens: int, path: str) -> None:
  """Checks that answers are shorter than the context.

  Raises:
    ConfigError: they are not; the error names `path`, the field of their
      length.
  """
  if max_new_tokens >= model.config.context:
    raise errors.ConfigError(
      path,
      f'found {max_new_tokens}, which leaves no room for a prompt',
      legal=f'less than the context of {model.config.context}',
    )


class Engine:
  """Samples from one model; its parameters may change between calls.

  A prefill program is compiled for each bucket of prompts, and a decoding
  program for the longest prompt of a call. An answer depends on the settings,
  the request's ids, images and seed, and the sample's index, but not on the
  other requests of the call.
  """

  def __init__(
    self,
    model: family.Model,
    vocabulary: Vocabulary,
    batch_size: int,
    shapes: Shapes = SHAPES,
  ) -> None:
    """Builds the engine.

    Args:
      model: the module; the cache has its dtype.
      vocabulary: the vocabulary of the tokenizer.
      batch_size: B, number of answers decoded together; a multiple of
        rules.row_shards within rules.active.
      shapes: sizes that programs are compiled for.

    Raises:
      ConfigError: the tokenizer has more ids than the model, or batch_size is
        not positive.
    """
    if vocabulary.size > model.config.vocab_size:
      raise errors.ConfigError(
        'tokenizer',
        f'has {vocabulary.size} ids, the model {model.config.vocab_size}',
        legal='a tokenizer with no more ids than the model',
      )
    if batch_size < 1:
      raise errors.ConfigError(
        'batch_size', f'found {batch_size}', legal='1 or more'
      )
    self._model, self._vocabulary, self._batch_size = (
      model,
      vocabulary,
      batch_size,
    )
    self._shapes = shapes

  def weights(self, params: types.PyTree) -> decoding.Weights:
    """Returns the parameters in the form for decoding, for `stream`.

    Keeping them saves the conversion in each call of `stream`, at the cost of
    their memory.
    """
    return device.weights(self._model, params)

  def bucket(self, request: Request, settings: Settings) -> int:
    """Returns the padded length of a prompt; each length has its own program.

    Args:
      request: a request with a prompt that fits.
      settings: sampling settings of the call.
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
    """Compiles the programs for such requests by generating one token each.

    The decoding program fits the longest prompt of a call, so requests must be
    compiled together with the longest one of their calls.

    Args:
      params: see `generate`.
      requests: one request of each bucket.
      settings: sampling settings of the calls.
    """
    self._check(requests)
    longest = [self._longest(request, settings) for request in requests]
    call = calls.Call(
      self._model, self._vocabulary, self._batch_size, settings, self._shapes
    )
    short = [dataclasses.replace(r, max_new_tokens=1) for r in requests]
    weights = self.weights(params)
    call.start(params, weights, short, range(len(short)), longest)
    for _ in call.run():
      pass

  def _longest(self, request, settings) -> int:
    """Returns the maximum number of ids of a prompt."""
    limit = requests_lib.limit(request, settings)
    return self._model.config.context - limit

  def generate(
    self,
    params: types.PyTree,
    requests: Sequence[Request],
    settings: Settings,
    progress: Progress | None = None,
  ) -> list[list[Sample]]:
    """Returns the samples of all requests, in the order of the requests.

    Args:
      params: parameters of the model, float32, with any placement or sharding.
      requests: any number of requests of any lengths.
      settings: sampling settings of all requests.
      progress: called with the number of finished samples and the total.

    Raises:
      ValueError: a prompt is empty, or has ids or images that the model does
        not support.
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
    """Yields the samples of each request as soon as they are finished.

    Args:
      params: see `generate`.
      requests: see `generate`.
      settings: see `generate`.
      progress: see `generate`.
      watch: called after each slice of steps for every unfinished answer. An
        exception that it raises ends the call.
      weights: the result of `weights(params)`; None: `stream` calls it.

    Yields:
      The index of a request, and its samples. Prompts that are too long come
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
      self._model, self._vocabulary, self._batch_size, settings, self._shapes
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
        raise ValueError(
          f'request {i} has samples={request.samples}; must be 1 or more'
        )
      if request.max_new_tokens is not None and request.max_new_tokens < 1:
        raise ValueError(
          f'request {i} has max_new_tokens={request.max_new_tokens}; must be 1 '
          'or more'
        )
      images_lib.check(request.ids, request.images, vision)
      ids = images_lib.text_ids(request.ids, request.images, vision)
      low, high = min(ids), max(ids)
      if low < 0 or high >= vocab_size:
        found = low if low < 0 else high
        raise ValueError(
          f'prompt {i} contains id {found}; legal ids are 0 to {vocab_size - 1}'
        )
