"""What is asked of a sampler, and what it answers."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Protocol

from kd.sampling import images as images_lib


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
  """How ids are chosen, and when an answer ends.

  Attributes:
    temperature: of the softmax; 0 takes the most likely id.
    top_k: ids that can be drawn, the most likely ones; 0: all.
    top_p: the least mass of the most likely ids that can be drawn, (0, 1]
      (arXiv 1904.09751).
    min_p: ids below this share of the most likely id's probability are not
      drawn, [0, 1) (arXiv 2407.01082).
    repetition_penalty: divides the positive logits of ids that the prompt or
      the answer holds, and multiplies the negative ones; 1: none
      (arXiv 1909.05858).
    max_new_tokens: the most ids of an answer, its stop id included.
    stop_strings: each of them ends an answer, and is cut off.
  """

  temperature: float
  top_k: int
  top_p: float
  min_p: float
  repetition_penalty: float
  max_new_tokens: int
  stop_strings: tuple[str, ...]


def greedy(max_new_tokens: int) -> SamplingSettings:
  """Returns the most likely ids, as the model has them."""
  return SamplingSettings(
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    max_new_tokens=max_new_tokens,
    stop_strings=(),
  )


@dataclasses.dataclass(frozen=True)
class Request:
  """A prompt that is to be answered.

  Attributes:
    ids: of the prompt, BOS included; those at the places of images say nothing.
    seed: decides what is drawn; the other requests and their order do not.
    samples: answers that are wanted, 1 or more; they share the prefill.
    max_new_tokens: the most ids of each of its answers, the stop id included;
      None, or more than SamplingSettings.max_new_tokens: as that.
    images: of the prompt, in the order of their places.
  """

  ids: tuple[int, ...]
  seed: int
  samples: int
  max_new_tokens: int | None = None
  images: tuple[images_lib.Image, ...] = ()


def numbered(
  ids: Sequence[int],
  seed: int,
  number: int,
  samples: int,
  images: Sequence[images_lib.Image] = (),
) -> Request:
  """Returns the request of a prompt with a number, from 0, among others."""
  seed = seed << 32 | number
  return Request(tuple(ids), seed, samples, images=tuple(images))


def limit(request: Request, settings: SamplingSettings) -> int:
  """Returns the most ids of an answer to a request."""
  if request.max_new_tokens is None:
    return settings.max_new_tokens
  return min(request.max_new_tokens, settings.max_new_tokens)


FINISHES = ('stop', 'length', 'too_long')


@dataclasses.dataclass(frozen=True)
class Sample:
  """One answer.

  Attributes:
    ids: the new ids, without the stop id.
    logprobs: the model's log-probability of each of them, at temperature 1 and
      before any id is ruled out.
    text: the ids as text, without the stop string.
    finish: one of FINISHES: 'stop' (an id or string that ends it), 'length'
      (the limit came first) or 'too_long' (the prompt leaves no room in the
      context).
    stop_id: the id that ended it, which is not among `ids`; None if no id did,
      or if it was not kept.
    stop_logprob: the log-probability of stop_id, likewise.
  """

  ids: tuple[int, ...]
  logprobs: tuple[float, ...]
  text: str
  finish: str
  stop_id: int | None = None
  stop_logprob: float | None = None


class Sampler(Protocol):
  """Answers requests with one model's parameters."""

  def __call__(
    self,
    requests: Sequence[Request],
    settings: SamplingSettings,
    progress: Callable[[int, int], None] | None = None,
  ) -> list[list[Sample]]:
    """All requests' samples, in the requests' order.

    Args:
      requests: in any number and of any lengths.
      settings: of all of them.
      progress: called with samples that are done and all samples.

    Raises:
      ValueError: a prompt is empty or holds an id that the model lacks, or
        images that it cannot read.
      NonFiniteError: the model's logits are NaN or infinite.
    """
