"""Asks a server for the log-probabilities that follow each id of a prompt."""

from collections.abc import Iterable, Sequence
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
class Answer:
  """Log-probabilities at n positions of a prompt.

  Attributes:
    ids: int32 [n, K], the likeliest; -1 in slots that are not used.
    logprobs: float32 [n, K], of these; -inf in slots that are not used.
    actual: float32 [n], of the id that follows; where the server does not tell
      it, the most that it can be.
  """

  ids: np.ndarray
  logprobs: np.ndarray
  actual: np.ndarray

  def to_bytes(self) -> bytes:
    """Returns the arrays as a file of numpy's."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **vars(self))
    return buffer.getvalue()

  @classmethod
  def from_bytes(cls, data: bytes) -> 'Answer':
    """Returns what `to_bytes` wrote."""
    with np.load(io.BytesIO(data)) as arrays:
      return cls(**arrays)


@dataclasses.dataclass(frozen=True)
class Origin:
  """What a reply says of its model."""

  model: str
  fingerprint: str


def compared(fingerprint: str) -> tuple[str, ...]:
  """Returns the fields of an Origin that must not change.

  Args:
    fingerprint: teacher.server.fingerprint.
  """
  return ('model',) if fingerprint == 'any' else ('model', 'fingerprint')


class Questions:
  """Questions to one model in one way.

  Thread-safe.
  """

  def __init__(
    self,
    client: client_lib.Client,
    api: apis.Api,
    vocabulary: vocabulary_lib.Vocabulary,
    most: int,
    generated: int,
  ):
    """Initializes the questions.

    Args:
      client: of the server.
      api: how it is asked.
      vocabulary: the tokenizer's.
      most: K, likeliest ids per position.
      generated: tokens that a request makes the server generate, 0 or 1.
    """
    self._client, self._api, self._vocabulary = client, api, vocabulary
    self.most, self.generated = most, generated

  def ask(
    self, ids: Sequence[int], positions: Iterable[int], temperature: float = 1.0
  ) -> tuple[Answer, Origin]:
    """Returns the log-probabilities after some positions of a prompt.

    Args:
      ids: the prompt, and the id after the last position.
      positions: from 0, rising.
      temperature: of the request.

    Raises:
      MalformedError: the reply lacks what was asked for.
      RefusedError, ReadError: from the client.
      ConfigError: the tokens are not the tokenizer's.
    """
    positions = list(positions)
    if self._api.by_position:
      found = []
      for at in positions:
        told = self._told(ids[: at + 2], temperature)
        found += told.positions
    else:
      told = self._told(ids[: positions[-1] + 2], temperature)
      found = [told.positions[at] for at in positions]
    origin = Origin(told.model, told.fingerprint)
    return self._answer(found, ids, positions), origin

  def _told(self, ids, temperature):
    api, generated = self._api, self.generated
    body = api.body(ids, self.most, generated, temperature)
    # A request for one position sends the ids before it, not its own.
    prompt = len(ids) - api.by_position
    reply = self._client.post(api.path, body, prompt, generated)
    try:
      return api.read(reply, ids)
    except _MALFORMED as e:
      raise apis.MalformedError(f'{type(e).__name__}: {e}') from e

  def _answer(self, told, ids, positions) -> Answer:
    shape = len(told), self.most
    kept = Answer(
      np.full(shape, -1, np.int32),
      np.full(shape, -np.inf, np.float32),
      np.zeros(len(told), np.float32),
    )
    for n, (position, at) in enumerate(zip(told, positions, strict=True)):
      actual = ids[at + 1]
      for index, text in position.texts.items():
        self._vocabulary.check(index, text, at + 1)
      if actual not in position.logprobs and not self._api.by_position:
        raise errors.ConfigError(
          'teacher.server.url',
          f'position {at + 1}: the reply has no log-probability of id '
          f'{actual}, which was asked',
          legal='a server that scores the ids as they are',
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
      kept.ids[n, : len(best)] = [i for i, _ in best]
      kept.logprobs[n, : len(best)] = [x for _, x in best]
      rest = max(1 - mass, 1e-9)
      lowest = min((x for _, x in best), default=0.0)
      kept.actual[n] = position.logprobs.get(
        actual, min(math.log(rest), lowest)
      )
    return kept
