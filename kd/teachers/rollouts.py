"""On-policy rows: the student samples answers, which a teacher scores.

Generalized knowledge distillation (arXiv 2306.13649): in a fraction of a step's
rows, the student's answers to the prompts replace those of the data. Training
treats these rows like any other.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import time

import jax
import numpy as np

from kd.core import schedules
from kd.core import types
from kd.sampling import requests
from kd.teachers import replay_buffer
from kd.teachers import rollout_rows

# Separate these random streams from others with the run's seed.
_ROWS, _ANSWERS = 0x4011, 0x4012

Sampler = Callable[
  [types.PyTree, Sequence[requests.Request]], list[list[requests.Sample]]
]


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and the student's answer as human-readable text."""

  prompt: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Rollout:
  """A step's batch with answers of the student.

  Attributes:
    rows: the batch, numpy arrays.
    scalars: metrics by name.
    example: one of the student's answers; None if there is none.
    seconds: duration of sampling.
  """

  rows: types.Batch
  scalars: dict[str, float]
  example: Example | None
  seconds: float


class Rollouts:
  """Replaces some of each step's rows with answers of the student.

  A step's batch is a function of the seed, the step, the data, the parameters
  before the step and the buffer. It does not depend on the number of processes.
  Devices matter only if they round logits differently, which may change draws.
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
    with_logprobs: bool = False,
  ):
    """Configures the rollouts.

    Args:
      sampler: function from (parameters, requests) to answers, identical on
        every process.
      fraction: fraction of a step's rows to replace, by step, in [0, 1].
      every: number of updates between samplings; at other steps, rows are
        drawn from the buffer.
      buffer: buffer of sampled rows; None if `every` is 1.
      seed: seed of the random draws.
      pad_id: id that fills the rest of a row.
      decode: function from ids to text, for examples.
      image_tokens: number of soft tokens per image, if prompts have images.
      with_logprobs: whether batches have sampling_logprobs.
    """
    self._sampler, self._fraction, self._every = sampler, fraction, every
    self.buffer = buffer
    self._seed, self._pad_id, self._decode = seed, pad_id, decode
    self._image_tokens, self._with_logprobs = image_tokens, with_logprobs

  def prompts_step(self, step: int) -> int | None:
    """Returns the index of the batch with a step's prompts, or None.

    A step that does not sample has None, and is not counted, so that no prompt
    is skipped.
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
    """Returns a step's batch, with answers sampled before the step.

    Args:
      step: number of updates applied so far.
      params: the student's parameters before the step.
      rows: the data's global batch for this step, numpy arrays of B rows.
      prompts: the data's global batch whose prompts the student answers, B
        rows; None if prompts_step is None.
    """
    samples, seconds = {}, 0.0
    asked = {} if prompts is None else self.asked(step, prompts)
    if asked:
      # Excludes the rest of the previous update from the measured time.
      jax.block_until_ready(params)
      began = time.monotonic()
      answers = self._sampler(params, list(asked.values()))
      seconds = time.monotonic() - began
      samples = {
        place: each[0] for place, each in zip(asked, answers, strict=True)
      }
    return self.batch(step, rows, prompts, samples, step, seconds)

  def asked(
    self, step: int, prompts: types.Batch
  ) -> dict[int, requests.Request]:
    """Returns a step's sampling requests by index in the batch.

    Args:
      step: as for `__call__`.
      prompts: as for `__call__`, not None.
    """
    _, places = self._places(step, len(prompts.row_id))
    result = {}
    for place in places.tolist():
      entropy = [_ANSWERS, self._seed, step, place]
      seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
      request = rollout_rows.request(
        prompts, place, int(seed[0]), self._image_tokens
      )
      if request.ids:
        result[place] = request
    return result

  def batch(
    self,
    step: int,
    rows: types.Batch,
    prompts: types.Batch | None,
    samples: Mapping[int, requests.Sample],
    sampled_at: int,
    seconds: float,
  ) -> Rollout:
    """Returns a step's batch with the student's answers.

    Args:
      step: as for `__call__`.
      rows: as for `__call__`.
      prompts: as for `__call__`.
      samples: the answers to the requests of `asked`, by index in the batch.
      sampled_at: number of updates before the student sampled them.
      seconds: duration of sampling.
    """
    size = len(rows.row_id)
    draws, places = self._places(step, size)
    scalars = {}
    if prompts is None:
      kept = self.buffer.draw(len(places), draws)
      new_rows = dict(zip(places.tolist(), kept, strict=False))
    else:
      new_rows, scalars = self._new_rows(prompts, samples, sampled_at)
      if self.buffer is not None:
        for row in new_rows.values():
          self.buffer.add(row)
    ages = [step - row.sampled_at for row in new_rows.values()]
    scalars['rollout/fraction'] = len(new_rows) / size
    if ages:
      scalars['rollout/age'] = float(np.mean(ages))
      scalars['rollout/oldest'] = float(max(ages))
    batch = rollout_rows.replace(rows, new_rows, self._with_logprobs)
    return Rollout(batch, scalars, self._example(new_rows), seconds)

  def _places(self, step, size):
    """Returns a step's random generator, and the indices of rows to replace."""
    draws = np.random.default_rng([_ROWS, self._seed, step])
    # Rounds at random, so that the mean over steps is exact for any batch size.
    count = int(float(self._fraction(step)) * size + draws.random())
    return draws, np.sort(draws.permutation(size)[:count])

  def _new_rows(self, prompts, samples, sampled_at):
    """Returns rows with the answers, by index in the batch, and metrics."""
    length, new_rows, fitting, max_lengths = prompts.tokens.shape[1], {}, {}, {}
    for place, sample in samples.items():
      if sample.finish == 'too_long':
        continue
      ids, logprobs = rollout_rows.prompt_at(prompts, place), None
      fitting[place] = sample
      max_lengths[place] = rollout_rows.max_answer_length(ids, length)
      if self._with_logprobs:
        logprobs = rollout_rows.logprobs(ids, sample, length)
      new_rows[place] = replay_buffer.BufferedRow(
        rollout_rows.answer_row(ids, sample, length, self._pad_id),
        int(prompts.row_id[place]),
        sampled_at,
        rollout_rows.images_of_prompt(prompts, place, len(ids)),
        logprobs,
      )
    scalars = rollout_rows.summary(fitting, max_lengths)
    scalars['rollout/no_room'] = float(len(samples) - len(fitting))
    return new_rows, scalars

  def _example(self, new_rows):
    if not new_rows:
      return None
    fields = next(iter(new_rows.values())).fields
    answer = fields['targets'][fields['weights'] > 0].tolist()
    return Example(
      self._decode(rollout_rows.prompt_of(fields)), self._decode(answer)
    )
