"""Converts packed rows of a batch to prompts, and answers to targets."""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from kd.core import types
from kd.teachers.served import prompt_scorer

_LEAST = 1e-9  # Least probability of the tail.


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A packed example whose targets a teacher scores.

  Attributes:
    row: index of the row in the batch.
    segment: segment id in the row.
    places: int [n], positions in the row whose targets count.
    ids: ids of the example, including its last target.
    positions: `places` as positions in the example, from 0.
  """

  row: int
  segment: int
  places: np.ndarray
  ids: Sequence[int]
  positions: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Targets:
  """The targets of a batch; zeros where no target counts.

  Attributes:
    ids: int32 [B, L, K], increasing, with -1 in unused slots at the end.
    logprobs: float32 [B, L, K], their log-probabilities; -inf in unused slots.
    tail_logprob: float32 [B, L], the log-mass of all other ids.
    target_logprob: float32 [B, L], log-probability of the actual next token.
    entropy: float32 [B, L], entropy of the K + 1 outcomes in nats.
    dropped_mass: float32 [B, L], the probability of returned ids that the
      student lacks, which are left out.
  """

  ids: np.ndarray
  logprobs: np.ndarray
  tail_logprob: np.ndarray
  target_logprob: np.ndarray
  entropy: np.ndarray
  dropped_mass: np.ndarray


def of(batch: types.Batch) -> Iterator[Prompt]:
  """Yields the prompts of a batch of numpy arrays."""
  for row, segments in enumerate(batch.segment_ids):
    for segment in np.unique(segments[segments > 0]):
      places = np.flatnonzero(segments == segment)
      counted = np.flatnonzero(batch.weights[row, places] != 0)
      if not len(counted):
        continue
      last = places[counted[-1]]
      ids = [*batch.tokens[row, places[: counted[-1] + 1]]]
      ids.append(batch.targets[row, last])
      yield Prompt(
        row,
        int(segment),
        places[counted],
        [int(i) for i in ids],
        counted.tolist(),
      )


def after(prompt: Prompt, prefix: Sequence[int], bos_id: int | None) -> Prompt:
  """Returns a prompt with a prefix after its BOS.

  Args:
    prompt: the prompt.
    prefix: ids of the prefix.
    bos_id: BOS id of the tokenizer, if it has one.
  """
  begin = int(prompt.ids[0] == bos_id)
  ids = [*prompt.ids[:begin], *prefix, *prompt.ids[begin:]]
  # The position of the BOS moves too: its target now follows the prefix.
  positions = [at + len(prefix) for at in prompt.positions]
  return dataclasses.replace(prompt, ids=ids, positions=positions)


def targets(
  shape: tuple[int, int],
  most: int,
  answered: Sequence[tuple[Prompt, prompt_scorer.PromptScores]],
  vocab_size: int,
) -> Targets:
  """Returns the targets of a batch.

  Args:
    shape: (B, L).
    most: K, ids per position; answers may have fewer.
    answered: its prompts with their answers.
    vocab_size: number of ids of the student; larger ids are left out.
  """
  whole = Targets(
    np.full((*shape, most), -1, np.int32),
    np.full((*shape, most), -np.inf, np.float32),
    *(np.zeros(shape, np.float32) for _ in range(4)),
  )
  for prompt, answer in answered:
    ids, logprobs, dropped = _within(answer, vocab_size)
    rest = np.log1p(-dropped)
    logprobs = logprobs - rest[:, None]
    probabilities = np.exp(logprobs)
    # With rounding, the probabilities may sum to 1 or more.
    tail = np.maximum(1 - probabilities.sum(axis=1), _LEAST)
    known = np.where(ids < 0, 0.0, logprobs)
    entropy = -(probabilities * known).sum(axis=1) - tail * np.log(tail)
    at = prompt.row, prompt.places
    count = ids.shape[1]
    for array, values in (
      (whole.tail_logprob, np.log(tail)),
      (whole.target_logprob, answer.actual - rest),
      (whole.entropy, entropy),
      (whole.dropped_mass, dropped),
    ):
      array[at] = values
    whole.ids[(*at, slice(count))] = ids
    whole.logprobs[(*at, slice(count))] = logprobs
  return whole


def _within(answer, vocab_size):
  """Returns an answer without ids that the student lacks, and their mass."""
  logprobs = answer.logprobs.astype(np.float64)
  beyond = answer.ids >= vocab_size
  dropped = np.where(beyond, np.exp(logprobs), 0.0).sum(axis=1)
  ids = np.where(beyond, -1, answer.ids)
  logprobs = np.where(beyond, -np.inf, logprobs)
  return ids, logprobs, np.minimum(dropped, 1 - _LEAST)
