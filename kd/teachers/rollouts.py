"""On-policy rows: the student writes the answers that a teacher then scores.

Generalized knowledge distillation (arXiv 2306.13649): in a fraction of a step's
rows only the prompts are kept, the student samples the answers, and training
treats them like any other row. Their targets are types.SAMPLED: no term treats
them as ground truth.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import time

import jax
import numpy as np

from kd.core import schedules
from kd.core import types
from kd.input_pipeline import packing
from kd.sampling import requests
from kd.teachers import replay_buffer

# Apart from whatever else is drawn from the run's seed.
_ROWS, _ANSWERS = 0x4011, 0x4012

Sampler = Callable[
  [types.PyTree, Sequence[requests.Request]], list[list[requests.Sample]]
]


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and what the student answered, to be looked at."""

  prompt: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What a step is trained on.

  Attributes:
    rows: the batch, numpy arrays.
    scalars: metrics, by name.
    example: one of the student's rows; None if there is none.
    seconds: that sampling took.
  """

  rows: types.Batch
  scalars: dict[str, float]
  example: Example | None
  seconds: float


def prompt_of(row: Mapping[str, np.ndarray]) -> tuple[int, ...]:
  """The ids before a row's first target; () if it has none.

  Args:
    row: by name of packing.FIELDS; it holds one example.
  """
  targets = np.flatnonzero(row['weights'])
  if not targets.size:
    return ()
  return tuple(row['tokens'][: targets[0] + 1].tolist())


def answered(
  prompt: Sequence[int], sample: requests.Sample, length: int, pad_id: int
) -> dict[str, np.ndarray]:
  """The row of a prompt and the student's answer, cut to the row's length.

  Args:
    prompt: ids of it, BOS first; no more than `length`.
    sample: the answer. The id that ended it is a target too: else the student
      would never be told when to stop.
    length: L.
    pad_id: fills the rest.

  Returns:
    By name of packing.FIELDS, [L] each.
  """
  end = [] if sample.stop_id is None else [sample.stop_id]
  ids = [*prompt, *sample.ids, *end][: length + 1]
  is_new = np.arange(len(ids)) >= len(prompt)
  example = packing.Example(
    ids=np.asarray(ids, np.int32),
    parts=np.where(is_new, types.SAMPLED, types.ANSWER).astype(np.int32),
    weights=is_new.astype(np.float32),
    index=0,
  )
  return packing.fill([example], length, pad_id)


def room(prompt: Sequence[int], length: int) -> int:
  """Returns the most ids of an answer that a row of L positions can hold."""
  # A row's targets are shifted: its last one has no position of its own.
  return length + 1 - len(prompt)


class Rollouts:
  """Puts the student's answers in place of some of each step's rows.

  What a step is trained on is a function of the seed, the step, the data, the
  parameters before it and the buffer. Processes have no part in it; devices
  only as far as they round logits differently, which may change what is drawn.
  """

  def __init__(
    self,
    sampler: Sampler,
    fraction: schedules.Schedule,
    every: int,
    buffer: replay_buffer.Buffer | None,
    seed: int,
    pad_id: int,
    decode: Callable[[Sequence[int]], str],
  ):
    """Builds it.

    Args:
      sampler: answers requests with given parameters; the same on every
        process.
      fraction: of a step's rows, by step, [0, 1].
      every: updates from one sampling to the next; the student's rows of those
        in between come out of the buffer.
      buffer: keeps rows; None exactly where `every` is 1.
      seed: of what is drawn.
      pad_id: fills rows up.
      decode: ids to text, of what is shown.
    """
    self._sampler, self._fraction, self._every = sampler, fraction, every
    self.buffer = buffer
    self._seed, self._pad_id, self._decode = seed, pad_id, decode

  def prompts_step(self, step: int) -> int | None:
    """Which batch of the data has a step's prompts; None: it samples none.

    Batches are counted by samplings, so that no prompt is left out where a step
    samples none.
    """
    number, rest = divmod(step, self._every)
    return None if rest else number

  def __call__(
    self,
    step: int,
    params: types.PyTree,
    rows: types.Batch,
    prompts: types.Batch | None,
  ) -> Rollout:
    """Makes a step's batch.

    Args:
      step: number of updates already applied.
      params: the student's, by which they were.
      rows: the data's whole batch for this step, numpy arrays of B rows.
      prompts: the data's whole batch whose prompts are answered now, B rows;
        None where prompts_step says so.
    """
    size = len(rows.row_id)
    draws = np.random.default_rng([_ROWS, self._seed, step])
    # The mean over steps is exact for any number of rows.
    count = int(float(self._fraction(step)) * size + draws.random())
    places = np.sort(draws.permutation(size)[:count])
    scalars, seconds = {}, 0.0
    if prompts is None:
      kept = self.buffer.draw(count, draws)
      found = dict(zip(places.tolist(), kept, strict=False))
    else:
      found, scalars, seconds = self._sample(step, params, prompts, places)
      if self.buffer is not None:
        for row in found.values():
          self.buffer.add(row)
    ages = [step - row.made for row in found.values()]
    scalars['rollout/fraction'] = len(found) / size
    if ages:
      scalars['rollout/age'] = float(np.mean(ages))
      scalars['rollout/oldest'] = float(max(ages))
    example = self._example(found)
    return Rollout(_replaced(rows, found), scalars, example, seconds)

  def _sample(self, step, params, prompts, places):
    """New rows by place in the batch, what they are like, and seconds."""
    asked = {}
    for place in places.tolist():
      row = {name: getattr(prompts, name)[place] for name in packing.FIELDS}
      ids = prompt_of(row)
      if ids:
        entropy = [_ANSWERS, self._seed, step, place]
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        asked[place] = requests.Request(
          ids,
          seed=int(seed[0]),
          samples=1,
          max_new_tokens=room(ids, prompts.tokens.shape[1]),
        )
    answers, seconds = [], 0.0
    if asked:
      # What the update before still takes is not the sampler's time.
      jax.block_until_ready(params)
      began = time.monotonic()
      answers = self._sampler(params, list(asked.values()))
      seconds = time.monotonic() - began
    samples = {
      place: samples[0] for place, samples in zip(asked, answers, strict=True)
    }
    fitting = {
      place: sample
      for place, sample in samples.items()
      if sample.finish != 'too_long'
    }
    length = prompts.tokens.shape[1]
    found = {
      place: replay_buffer.BufferedRow(
        answered(asked[place].ids, sample, length, self._pad_id),
        int(prompts.row_id[place]),
        step,
      )
      for place, sample in fitting.items()
    }
    rooms = {place: room(asked[place].ids, length) for place in fitting}
    scalars = _summary(fitting, rooms)
    scalars['rollout/no_room'] = float(len(samples) - len(fitting))
    return found, scalars, seconds

  def _example(self, found):
    if not found:
      return None
    fields = next(iter(found.values())).fields
    answer = fields['targets'][fields['weights'] > 0].tolist()
    return Example(self._decode(prompt_of(fields)), self._decode(answer))


def _summary(
  samples: Mapping[int, requests.Sample], rooms: Mapping[int, int]
) -> dict[str, float]:
  """Metrics of new answers, of the part of each that is trained on.

  Args:
    samples: by place in the batch.
    rooms: the most ids of each, its stop id included.
  """
  if not samples:
    return {}
  kept, stopped, truncated = [], [], []
  for place, sample in samples.items():
    kept.append(sample.logprobs[: rooms[place]])
    ends = sample.finish == 'stop'
    fits = len(sample.ids) + (sample.stop_id is not None) <= rooms[place]
    stopped.append(ends and fits)
    # At the row's end, whatever else would have ended it there.
    truncated.append(not fits or (not ends and len(kept[-1]) == rooms[place]))
  logprobs = [value for values in kept for value in values]
  scalars = {
    'rollout/new_tokens': len(logprobs) / len(samples),
    'rollout/stopped': float(np.mean(stopped)),
    'rollout/truncated': float(np.mean(truncated)),
  }
  if logprobs:
    scalars['rollout/logprob'] = float(np.mean(logprobs))
  return scalars


def _replaced(
  rows: types.Batch, found: Mapping[int, replay_buffer.BufferedRow]
) -> types.Batch:
  """The batch with other rows at some places."""
  fields = {
    name: np.array(getattr(rows, name)) for name in (*packing.FIELDS, 'row_id')
  }
  for place, row in found.items():
    for name in packing.FIELDS:
      fields[name][place] = row.fields[name]
    fields['row_id'][place] = row.row_id
  return types.Batch(**fields)
