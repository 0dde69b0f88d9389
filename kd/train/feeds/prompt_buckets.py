"""Compiles the sampler's programs before training begins.

A prompt is padded to one of a few lengths, each with its own programs.
Compiling one of them during training would stall that step.
"""

from collections.abc import Sequence

import numpy as np

from kd.core import progress
from kd.core import types
from kd.input_pipeline import prepare
from kd.input_pipeline import rows as rows_lib
from kd.partitioning import placement
from kd.run import resolved
from kd.run import samplers
from kd.sampling import engine
from kd.sampling import images as images_lib
from kd.sampling import requests
from kd.teachers import rollout_rows

# Padded length of a prompt, and number of slots for its images.
Shape = tuple[int, int]


def rows_of(
  run: resolved.Run,
  prepared: Sequence[prepare.Prepared],
  settings: requests.SamplingSettings,
) -> dict[Shape, int]:
  """Returns one row for each shape of the data's prompts.

  Args:
    run: the resolved config.
    prepared: the rows of each task, with one example per row.
    settings: sampling settings of the student.

  Returns:
    The row_id of the first row of each shape, the longest shape last.
  """
  first: dict[Shape, int] = {}
  context, length = run.student.config.context, run.config.data.length
  for row in rows_lib.each(prepared):
    prompt = np.flatnonzero(row['weights'])[:1] + 1
    if not prompt.size:
      continue
    size = int(prompt[0])
    longest = context - min(
      rollout_rows.max_answer_length(range(size), length),
      settings.max_new_tokens,
    )
    if size <= longest:
      bucket = engine.SHAPES.bucket(size, longest)
      shape = bucket, images_lib.slots(len(row['images']))
      first.setdefault(shape, int(row['row_id']))
  return dict(sorted(first.items()))


def compile_(
  run: resolved.Run,
  prepared: Sequence[prepare.Prepared],
  settings: requests.SamplingSettings,
  params: types.PyTree,
  say: progress.Say,
) -> None:
  """Compiles the programs that answer a run's prompts.

  Args:
    run: the resolved config.
    prepared: the rows of each task, with one example per row.
    settings: sampling settings of the student.
    params: parameters of the student.
    say: function that prints a line of progress.
  """
  model, kept = run.student, params
  if run.sampler is not None:  # The student samples on separate devices.
    model = run.sampler
    kept = placement.copy(params, model.shardings)
  first = rows_of(run, prepared, settings)
  batch = rows_lib.Numbered(prepared)(first.values())
  vision = run.student.config.vision
  image_tokens = vision.soft_tokens if vision else 0
  asked = {
    shape: rollout_rows.request(batch, place, 0, image_tokens)
    for place, shape in enumerate(first)
  }
  rows = run.config.rollout.batch_size
  lengths = sorted({bucket for bucket, _ in asked})
  label = 'compiling the sampler'
  with progress.Progress(label, say, len(lengths), 'prompt lengths') as task:
    for longest in lengths:
      # The decoding program of a call depends on its longest prompt.
      call = [r for (bucket, _), r in asked.items() if bucket <= longest]
      samplers.compile_(run, model, rows, kept, call, settings)
      task.add(1)
