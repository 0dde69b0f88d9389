"""Converts the student's answers for checkpoints and other processes."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from kd.sampling import requests

_NONE = -1


@dataclasses.dataclass(frozen=True)
class Answers:
  """The student's answers to the prompts of a step.

  Attributes:
    sampled_at: number of updates before the student sampled them.
    samples: answers by index in the batch.
  """

  sampled_at: int
  samples: Mapping[int, requests.Sample]


def empty(slots: int, rows: int, tokens: int) -> dict[str, np.ndarray]:
  """Returns arrays for the answers of several steps.

  Args:
    slots: S, number of steps.
    rows: B, number of rows of a batch.
    tokens: T, maximum number of tokens of an answer, including the stop id.
  """
  return {
    'made': np.full(slots, _NONE, np.int32),
    'ids': np.zeros((slots, rows, tokens), np.int32),
    'logprobs': np.zeros((slots, rows, tokens), np.float32),
    'count': np.zeros((slots, rows), np.int32),
    'finish': np.full((slots, rows), _NONE, np.int32),
  }


def put(arrays: Mapping[str, np.ndarray], slot: int, answers: Answers) -> None:
  """Writes a step's answers into arrays of `empty`."""
  arrays['made'][slot] = answers.sampled_at
  for row, sample in answers.samples.items():
    count = len(sample.all_ids)
    arrays['ids'][slot, row, :count] = sample.all_ids
    arrays['logprobs'][slot, row, :count] = sample.all_logprobs
    arrays['count'][slot, row] = count
    arrays['finish'][slot, row] = requests.FINISHES.index(sample.finish)


def get(arrays: Mapping[str, np.ndarray], slot: int) -> Answers | None:
  """Returns the answers in a slot, without text; None if it is empty."""
  sampled_at = int(arrays['made'][slot])
  if sampled_at == _NONE:
    return None
  samples = {}
  for row in np.flatnonzero(arrays['finish'][slot] != _NONE).tolist():
    count = int(arrays['count'][slot, row])
    finish = requests.FINISHES[arrays['finish'][slot, row]]
    ids = arrays['ids'][slot, row, :count].tolist()
    logprobs = arrays['logprobs'][slot, row, :count].tolist()
    end = {}
    if finish == 'stop':
      end = dict(stop_id=ids.pop(), stop_logprob=logprobs.pop())
    samples[row] = requests.Sample(
      tuple(ids), tuple(logprobs), '', finish, **end
    )
  return Answers(sampled_at, samples)


def to_json(samples: Mapping[int, requests.Sample]) -> list[Any]:
  """Returns samples as JSON values, for other processes."""
  return [
    [row, dataclasses.asdict(dataclasses.replace(sample, text=''))]
    for row, sample in samples.items()
  ]


def from_json(values: list[Any]) -> dict[int, requests.Sample]:
  """Returns the samples that `to_json` encoded, without text."""
  samples = {}
  for row, fields in values:
    lists = {name: tuple(fields[name]) for name in ('ids', 'logprobs')}
    samples[row] = requests.Sample(**fields | lists)
  return samples
