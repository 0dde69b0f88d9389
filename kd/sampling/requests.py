"""Defines the requests and the answers of a sampler."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Protocol

from kd.sampling import images as images_lib


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
  """Sampling settings: how ids are chosen and when an answer ends.

  Attributes:
    temperature: temperature of the softmax; 0 takes the most likely id.
    top_k: number of most likely ids that can be drawn; 0: all.
    top_p: minimum total probability of the most likely ids that can be drawn,
      (0, 1] (arXiv 1904.09751).
    min_p: minimum probability of ids that can be drawn, as a fraction of that
      of the most likely id, [0, 1) (arXiv 2407.01082).
    repetition_penalty: divides positive logits of ids in the prompt or the
      answer, and multiplies negative ones; 1: none (arXiv 1909.05858).
    max_new_tokens: maximum number of ids of an answer, including its stop id.
    stop_strings: strings that end an answer and are removed from it.
  """

  temperature: float
  top_k: int
  top_p: float
  min_p: float
  repetition_penalty: float
  max_new_tokens: int
  stop_strings: tuple[str, ...]


def greedy(max_new_tokens: int) -> SamplingSettings:
  """Returns settings that always take the most likely id."""
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
  """A prompt to answer.

  Attributes:
    ids: ids of the prompt, including BOS; those of soft tokens are ignored.
    seed: random seed; draws do not depend on the other requests.
    samples: number of answers, at least 1; they share the prefill.
    max_new_tokens: maximum number of ids of each answer, including the stop id,
      and at most SamplingSettings.max_new_tokens; None: as the latter.
    images: images of the prompt, ordered by position.
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
  """Returns a request with a seed for its number, from 0, among requests."""
  seed = seed << 32 | number
  return Request(tuple(ids), seed, samples, images=tuple(images))


def limit(request: Request, settings: SamplingSettings) -> int:
  """Returns the maximum number of ids of an answer to a request."""
  if request.max_new_tokens is None:
    return settings.max_new_tokens
  return min(request.max_new_tokens, settings.max_new_tokens)


FINISHES = ('stop', 'length', 'too_long')


@dataclasses.dataclass(frozen=True)
class Sample:
  """One answer.

  Attributes:
    ids: the new ids, without the stop id.
    logprobs: log-probability of each new id, at temperature 1 and before any
      filter.
    text: the ids as text, without the stop string.
    finish: one of FINISHES: 'stop' (at a stop id or string), 'length' (at the
      limit) or 'too_long' (the prompt leaves no room in the context).
    stop_id: the stop id, which is not in `ids`; None if there is none or it was
      not kept.
    stop_logprob: log-probability of stop_id; None without one.
  """

  ids: tuple[int, ...]
  logprobs: tuple[float, ...]
  text: str
  finish: str
  stop_id: int | None = None
  stop_logprob: float | None = None

  @property
  def all_ids(self) -> tuple[int, ...]:
    """Returns the new ids and the stop id, if there is one."""
    return self.ids if self.stop_id is None else (*self.ids, self.stop_id)

  @property
  def all_logprobs(self) -> tuple[float, ...]:
    """Returns the log-probability of each id in `all_ids`."""
    if self.stop_id is None:
      return self.logprobs
    return *self.logprobs, self.stop_logprob


class Sampler(Protocol):
  """Answers requests with one model's parameters."""

  def __call__(
    self,
    requests: Sequence[Request],
    settings: SamplingSettings,
    progress: Callable[[int, int], None] | None = None,
  ) -> list[list[Sample]]:
    """Returns the samples of all requests, in the order of the requests.

    Args:
      requests: any number of requests of any lengths.
      settings: sampling settings of all requests.
      progress: called with the number of finished samples and the total.

    Raises:
      ValueError: a prompt is empty, or has ids or images that the model does
        not support.
      NonFiniteError: the model's logits are NaN or infinite.
    """
