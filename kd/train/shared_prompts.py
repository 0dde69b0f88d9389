"""Counts held-out prompts that are also in the training data."""

from collections.abc import Sequence

from kd.data_files import source
from kd.input_pipeline import prepare
from kd.train import evaluate


def warnings(
  train: Sequence[prepare.Prepared], held_out: Sequence[evaluate.HeldOut]
) -> list[str]:
  """Returns a line for each held-out set that shares prompts with training.

  A set is skipped if its rows and all training rows were prepared earlier,
  since they were counted then. --mode=data always counts.

  Args:
    train: the rows to train on.
    held_out: the held-out sets.
  """
  prompts = {}
  for held in held_out:
    if all(rows.reused for rows in (*train, *held.prepared)):
      continue
    prompts[held.name] = {
      source.prompt_key(example)
      for rows in held.prepared
      for example in rows.examples()
    }
  wanted = set().union(*prompts.values())
  trained = set()
  if wanted:
    for rows in train:
      keys = map(source.prompt_key, rows.examples())
      trained |= wanted.intersection(keys)
  lines = []
  for name, asked in prompts.items():
    both = len(asked & trained)
    if both:
      lines.append(
        f'warning: {name}: {both:,} of {len(asked):,} prompts are also '
        'trained on'
      )
  return lines
