"""On-policy rows: the student samples answers, which a teacher scores.

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
from kd.sampling import images as images_lib
from kd.sampling import requests
from kd.teachers import replay_buffer

# Separate these random streams from others with the run's seed.
_ROWS, _ANSWERS = 0x4011, 0x4012

Sampler = Callable[
  [types.PyTree, Sequence[requests.Request]], list[list[requests.Sample]]
]


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and the student's answer, as text for people to read."""

  prompt: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Rollout:
  """A step's batch with answers of the student.

  Attributes:
    rows: the batch, numpy arrays.
    scalars: metrics, by name.
    example: one of the student's answers; None if there is none.
    seconds: duration of sampling.
  """

  rows: types.Batch
  scalars: dict[str, float]
  example: Example | None
  seconds: float


def prompt_of(row: Mapping[str, np.ndarray]) -> tuple[int, ...]:
  """Returns the ids before a row's first target; () if it has none.

  Args:
    row: arrays by the names in packing.FIELDS; it holds one example.
  """
  targets = np.flatnonzero(row['weights'])
  if not targets.size:
    return ()
  return tuple(row['tokens'][: targets[0] + 1].tolist())


def answer_row(
  prompt: Sequence[int], sample: requests.Sample, length: int, pad_id: int
) -> dict[str, np.ndarray]:
  """Returns the row of a prompt and an answer, truncated to L tokens.

  Args:
    prompt: its ids, BOS first, at most `length`.
    sample: the answer. The stop id that ended it is a target too, so that the
      student learns when to stop.
    length: L.
    pad_id: fills the rest of the row.

  Returns:
    Arrays [L], by the names in packing.FIELDS.
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
  """Returns the maximum number of answer ids in a row of L positions."""
  # Targets are shifted by one: the last target needs no input position.
  return length + 1 - len(prompt)


class Rollouts:
  """Replaces some of each step's rows by answers of the student.

  A step's batch is a function of the seed, the step, the data, the parameters
  before the step and the buffer. It does not depend on the number of processes,
  and on devices only if they round logits differently, which may change draws.
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
    image_tokens: int = 0,
  ):
    """Configures the rollouts.

    Args:
      sampler: answers requests with given parameters, identically on every
        process.
      fraction: of a step's rows that are replaced, by step, [0, 1].
      every: updates between samplings; at other steps, rows are drawn
        from the buffer.
      buffer: of sampled rows; None if `every` is 1.
      seed: of the random draws.
      pad_id: fills the rest of a row.
      decode: converts ids to text, for examples.
      image_tokens: soft tokens of an image, if prompts have images.
    """
    self._sampler, self._fraction, self._every = sampler, fraction, every
    self.buffer = buffer
    self._seed, self._pad_id, self._decode = seed, pad_id, decode
    self._image_tokens = image_tokens

  def prompts_step(self, step: int) -> int | None:
    """Returns the index of the batch with a step's prompts; None: no sampling.

    Steps without sampling are not counted, so that no prompt is skipped.
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
    """Returns a step's batch.

    Args:
      step: number of updates applied so far.
      params: the student's parameters before the step.
      rows: the whole batch of the data for this step, numpy arrays of B rows.
      prompts: the whole batch of the data whose prompts are answered, B rows;
        None if prompts_step is None.
    """
    size = len(rows.row_id)
    draws = np.random.default_rng([_ROWS, self._seed, step])
    # The mean over steps is exact for any number of rows.
    count = int(float(self._fraction(step)) * size + draws.random())
    places = np.sort(draws.permutation(size)[:count])
    scalars, seconds = {}, 0.0
    if prompts is None:
      kept = self.buffer.draw(count, draws)
      new_rows = dict(zip(places.tolist(), kept, strict=False))
    else:
      new_rows, scalars, seconds = self._sample(step, params, prompts, places)
      if self.buffer is not None:
        for row in new_rows.values():
          self.buffer.add(row)
    ages = [step - row.made for row in new_rows.values()]
    scalars['rollout/fraction'] = len(new_rows) / size
    if ages:
      scalars['rollout/age'] = float(np.mean(ages))
      scalars['rollout/oldest'] = float(max(ages))
    example = self._example(new_rows)
    return Rollout(_replace(rows, new_rows), scalars, example, seconds)

  def _sample(self, step, params, prompts, places):
    """Samples rows, by index in the batch; returns also metrics and seconds."""
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
          images=self._images(prompts, place, len(ids)),
        )
    answers, seconds = [], 0.0
    if asked:
      # Do not count the time that the previous update still takes.
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
    new_rows = {
      place: replay_buffer.BufferedRow(
        answer_row(asked[place].ids, sample, length, self._pad_id),
        int(prompts.row_id[place]),
        step,
        _images_of_prompt(prompts, place, len(asked[place].ids)),
      )
      for place, sample in fitting.items()
    }
    rooms = {place: room(asked[place].ids, length) for place in fitting}
    scalars = _summary(fitting, rooms)
    scalars['rollout/no_room'] = float(len(samples) - len(fitting))
    return new_rows, scalars, seconds

  def _images(self, prompts, place, length):
    """Returns the images of a row's prompt, decoded, as requests have them."""
    row = _images_of_prompt(prompts, place, length)
    if row is None:
      return ()
    starts = np.flatnonzero(
      (row.index >= 0) & (row.index % self._image_tokens == 0)
    )
    return tuple(
      images_lib.Image(int(start), pixels)
      for start, pixels in zip(starts, row.pixels, strict=False)
    )

  def _example(self, new_rows):
    if not new_rows:
      return None
    fields = next(iter(new_rows.values())).fields
    answer = fields['targets'][fields['weights'] > 0].tolist()
    return Example(self._decode(prompt_of(fields)), self._decode(answer))


def _images_of_prompt(
  prompts: types.Batch, place: int, length: int
) -> types.Images | None:
  """Returns the images of a row's first `length` ids; None without images."""
  images = prompts.images
  if images is None:
    return None
  index = images.index[place].copy()
  index[length:] = -1  # Of later turns.
  return types.Images(images.pixels[place], index)


def _summary(
  samples: Mapping[int, requests.Sample], rooms: Mapping[int, int]
) -> dict[str, float]:
  """Computes metrics of the new answers, truncated to their rows.

  Args:
    samples: by index in the batch.
    rooms: the maximum number of ids of each, including its stop id.
  """
  if not samples:
    return {}
  kept, stopped, truncated = [], [], []
  for place, sample in samples.items():
    kept.append(sample.logprobs[: rooms[place]])
    ends = sample.finish == 'stop'
    fits = len(sample.ids) + (sample.stop_id is not None) <= rooms[place]
    stopped.append(ends and fits)
    # Truncated by the row, even if max_new_tokens ended at the same id.
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


def _replace(
  rows: types.Batch, new_rows: Mapping[int, replay_buffer.BufferedRow]
) -> types.Batch:
  """Returns the batch with some rows replaced, by index."""
  fields = {
    name: np.array(getattr(rows, name)) for name in (*packing.FIELDS, 'row_id')
  }
  for place, row in new_rows.items():
    for name in packing.FIELDS:
      fields[name][place] = row.fields[name]
    fields['row_id'][place] = row.row_id
  return types.Batch(**fields, images=_images_of(rows, new_rows))


def _images_of(rows, new_rows):
  """Returns the images of `_replace`'s batch; None if no row has one."""
  of_new = {
    place: row.images
    for place, row in new_rows.items()
    if row.images is not None
  }
  if rows.images is not None:
    pixels, index = np.array(rows.images.pixels), np.array(rows.images.index)
  elif of_new:
    shape = next(iter(of_new.values())).pixels.shape
    pixels = np.zeros((len(rows.tokens), *shape), np.uint8)
    index = np.full(rows.tokens.shape, -1, np.int32)
  else:
    return None
  index[list(new_rows)] = -1
  for place, images in of_new.items():
    pixels[place], index[place] = images.pixels, images.index
  return types.Images(pixels, index)
