"""Requests the log-probabilities after each id of a prompt from a server."""

from collections.abc import Iterable, Sequence
import copy
import dataclasses
import io
import math

import numpy as np

from kd.core import errors
from kd.teachers.served import apis
from kd.teachers.served import client as client_lib
from kd.teachers.served import vocabulary as vocabulary_lib

_MALFORMED = (
  *(apis.MalformedError, KeyError, IndexError),
  *(TypeError, ValueError, AttributeError),
)
# Rounded log-probabilities may sum to a little more than 1.
_ABOVE_ONE = 1e-2


@dataclasses.dataclass(frozen=True)
class PromptScores:
  """Log-probabilities at n positions of a prompt.

  Attributes:
    ids: int32 [n, K], the likeliest ids; -1 in unused slots.
    logprobs: float32 [n, K], their log-probabilities; -inf in unused slots.
    actual: float32 [n], log-probability of the id that follows, or its upper
      bound if the server does not return it.
  """

  ids: np.ndarray
  logprobs: np.ndarray
  actual: np.ndarray

  def to_bytes(self) -> bytes:
    """Returns the arrays as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **vars(self))
    return buffer.getvalue()

  @classmethod
  def from_bytes(cls, data: bytes) -> 'PromptScores':
    """Returns the scores that `to_bytes` encoded."""
    with np.load(io.BytesIO(data)) as arrays:
      return cls(**arrays)


@dataclasses.dataclass(frozen=True)
class Origin:
  """The model's identity in a reply."""

  model: str
  fingerprint: str


def compared(fingerprint: str) -> tuple[str, ...]:
  """Returns the fields of an Origin that must not change.

  Args:
    fingerprint: value of teacher.server.fingerprint.
  """
  return ('model',) if fingerprint == 'any' else ('model', 'fingerprint')


class PromptScorer:
  """Scores prompts with one model and fixed settings; thread-safe."""

  def __init__(
    self,
    client: client_lib.Client,
    api: apis.Api,
    vocabulary: vocabulary_lib.Vocabulary,
    most: int,
    generated: int,
  ):
    """Initializes the scorer.

    Args:
      client: client of the server.
      api: API of the requests.
      vocabulary: vocabulary of the tokenizer.
      most: K, number of likeliest ids per position.
      generated: number of tokens that each request generates, 0 or 1.
    """
    self._client, self._api, self._vocabulary = client, api, vocabulary
    self.most, self.generated = most, generated

  def through(self, client: client_lib.Client) -> 'PromptScorer':
    """Returns a scorer with the same settings that uses another client."""
    scorer = copy.copy(self)
    scorer._client = client
    return scorer

  def score(
    self, ids: Sequence[int], positions: Iterable[int], temperature: float = 1.0
  ) -> tuple[PromptScores, Origin]:
    """Returns the log-probabilities after some positions of a prompt.

    Args:
      ids: the prompt, and the id after the last position.
      positions: increasing positions, from 0.
      temperature: sampling temperature of the request.

    Raises:
      MalformedError: the reply lacks requested values.
      RefusedError, ReadError: from the client.
      ConfigError: the tokens are not the tokenizer's.
    """
    positions = list(positions)
    if self._api.by_position:
      found = []
      for at in positions:
        parsed = self._request(ids[: at + 2], temperature)
        found += parsed.positions
    else:
      parsed = self._request(ids[: positions[-1] + 2], temperature)
      found = [parsed.positions[at] for at in positions]
    origin = Origin(parsed.model, parsed.fingerprint)
    return self._scores(found, ids, positions), origin

  def _request(self, ids, temperature):
    api, generated = self._api, self.generated
    body = api.body(ids, self.most, generated, temperature)
    # A request for one position does not send the last id.
    prompt = len(ids) - api.by_position
    reply = self._client.post(api.path, body, prompt, generated)
    try:
      return api.read(reply, ids)
    except _MALFORMED as e:
      raise apis.MalformedError(f'{type(e).__name__}: {e}') from e

  def _scores(self, found, ids, positions) -> PromptScores:
    shape = len(found), self.most
    scores = PromptScores(
      np.full(shape, -1, np.int32),
      np.full(shape, -np.inf, np.float32),
      np.zeros(len(found), np.float32),
    )
    for n, (position, at) in enumerate(zip(found, positions, strict=True)):
      actual = ids[at + 1]
      for index, text in position.texts.items():
        self._vocabulary.check(index, text, at + 1)
      if actual not in position.logprobs and not self._api.by_position:
        raise errors.ConfigError(
          'teacher.server.url',
          f'position {at + 1}: the reply lacks the log-probability of the '
          f'requested id {actual}',
          legal='a server that scores the ids of a request unchanged',
        )
      best = sorted(position.logprobs.items(), key=lambda x: (-x[1], x[0]))
      best = best[: self.most - position.unnamed]
      mass = sum(math.exp(logprob) for _, logprob in best)
      if not mass <= 1 + _ABOVE_ONE:
        raise errors.ConfigError(
          'teacher.server.url',
          f'position {at + 1}: the log-probabilities sum to {mass:.3g}',
          legal='log-probabilities of the whole vocabulary, at temperature 1',
        )
      best.sort()
      scores.ids[n, : len(best)] = [i for i, _ in best]
      scores.logprobs[n, : len(best)] = [x for _, x in best]
      rest = max(1 - mass, 1e-9)
      lowest = min((x for _, x in best), default=0.0)
      scores.actual[n] = position.logprobs.get(
        actual, min(math.log(rest), lowest)
      )
    return scores
