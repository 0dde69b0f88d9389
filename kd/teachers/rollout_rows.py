"""Builds rows with the student's answers, and computes their metrics.

Such a row keeps only the prompt of the data's row. Its targets are
types.SAMPLED, so no loss term treats them as ground truth.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kd.core import types
from kd.input_pipeline import packing
from kd.sampling import images as images_lib
from kd.sampling import requests
from kd.teachers import replay_buffer


def prompt_of(row: Mapping[str, np.ndarray]) -> tuple[int, ...]:
  """Returns the ids before a row's first target; () if it has none.

  Args:
    row: arrays of one example, by the names in packing.FIELDS.
  """
  targets = np.flatnonzero(row['weights'])
  if not targets.size:
    return ()
  return tuple(row['tokens'][: targets[0] + 1].tolist())


def prompt_at(prompts: types.Batch, place: int) -> tuple[int, ...]:
  """Returns the prompt of a row of a batch; see `prompt_of`."""
  row = {n: getattr(prompts, n)[place] for n in ('tokens', 'weights')}
  return prompt_of(row)


def answer_row(
  prompt: Sequence[int], sample: requests.Sample, length: int, pad_id: int
) -> dict[str, np.ndarray]:
  """Returns the row of a prompt and an answer, truncated to L tokens.

  Args:
    prompt: ids of the prompt, BOS first, at most `length`.
    sample: the answer. Its stop id is a target too, so that the student learns
      when to stop.
    length: L.
    pad_id: id that fills the rest of the row.

  Returns:
    Arrays [L], by the names in packing.FIELDS.
  """
  ids = [*prompt, *sample.all_ids][: length + 1]
  is_new = np.arange(len(ids)) >= len(prompt)
  example = packing.Example(
    ids=np.asarray(ids, np.int32),
    parts=np.where(is_new, types.SAMPLED, types.ANSWER).astype(np.int32),
    weights=is_new.astype(np.float32),
    index=0,
  )
  return packing.fill([example], length, pad_id)


def logprobs(
  prompt: Sequence[int], sample: requests.Sample, length: int
) -> np.ndarray:
  """Returns the sampling log-probabilities of the targets of `answer_row`.

  Args:
    prompt: as for `answer_row`.
    sample: as for `answer_row`.
    length: L.

  Returns:
    float32 [L], log-probabilities at temperature 1; 0 at other targets.
  """
  values = sample.all_logprobs[: max_answer_length(prompt, length)]
  result = np.zeros(length, np.float32)
  first = len(prompt) - 1  # The last id of the prompt predicts it.
  result[first : first + len(values)] = values
  return result


def max_answer_length(prompt: Sequence[int], length: int) -> int:
  """Returns the maximum number of answer ids in a row of L positions."""
  # Targets are shifted by one: the last target needs no input position.
  return length + 1 - len(prompt)


def request(
  prompts: types.Batch, place: int, seed: int, image_tokens: int
) -> requests.Request:
  """Returns the sampling request for a row's prompt.

  Args:
    prompts: the batch.
    place: index of the row; without a target, the request has no ids.
    seed: seed of the draws.
    image_tokens: number of soft tokens per image; 0 if prompts have none.
  """
  ids = prompt_at(prompts, place)
  return requests.Request(
    ids,
    seed=seed,
    samples=1,
    max_new_tokens=max_answer_length(ids, prompts.tokens.shape[1]),
    images=_images(images_of_prompt(prompts, place, len(ids)), image_tokens),
  )


def _images(row, image_tokens):
  """Returns a prompt's images in the format of requests."""
  if row is None:
    return ()
  starts = np.flatnonzero((row.index >= 0) & (row.index % image_tokens == 0))
  return tuple(
    images_lib.Image(int(start), pixels)
    for start, pixels in zip(starts, row.pixels, strict=False)
  )


def images_of_prompt(
  prompts: types.Batch, place: int, length: int
) -> types.Images | None:
  """Returns the images of a row's first `length` ids; None without images."""
  images = prompts.images
  if images is None:
    return None
  index = images.index[place].copy()
  index[length:] = -1  # Drops the images of later turns.
  return types.Images(images.pixels[place], index)


def summary(
  samples: Mapping[int, requests.Sample], max_lengths: Mapping[int, int]
) -> dict[str, float]:
  """Computes metrics of the new answers, truncated to their rows.

  Args:
    samples: answers by index in the batch.
    max_lengths: the maximum number of ids of each, including its stop id.
  """
  if not samples:
    return {}
  kept, stopped, truncated = [], [], []
  for place, sample in samples.items():
    kept.append(sample.logprobs[: max_lengths[place]])
    ends = sample.finish == 'stop'
    fits = len(sample.all_ids) <= max_lengths[place]
    stopped.append(ends and fits)
    # Counts as truncated even if max_new_tokens ended it at the same id.
    truncated.append(
      not fits or (not ends and len(kept[-1]) == max_lengths[place])
    )
  each = [value for values in kept for value in values]
  scalars = {
    'rollout/new_tokens': len(each) / len(samples),
    'rollout/stopped': float(np.mean(stopped)),
    'rollout/truncated': float(np.mean(truncated)),
  }
  if each:
    scalars['rollout/logprob'] = float(np.mean(each))
  return scalars


def replace(
  rows: types.Batch,
  new_rows: Mapping[int, replay_buffer.BufferedRow],
  with_logprobs: bool,
) -> types.Batch:
  """Returns the batch with some rows replaced.

  Args:
    rows: the batch of the data.
    new_rows: the new rows by index in the batch.
    with_logprobs: whether the batch has sampling_logprobs.
  """
  fields = {
    name: np.array(getattr(rows, name)) for name in (*packing.FIELDS, 'row_id')
  }
  if with_logprobs:
    fields['sampling_logprobs'] = np.zeros(rows.weights.shape, np.float32)
  for place, row in new_rows.items():
    for name in packing.FIELDS:
      fields[name][place] = row.fields[name]
    fields['row_id'][place] = row.row_id
    if with_logprobs:
      fields['sampling_logprobs'][place] = row.logprobs
  return types.Batch(**fields, images=_images_of(rows, new_rows))


def _images_of(rows, new_rows):
  """Returns the images of `replace`'s batch; None if no row has one."""
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
