"""Describes the rows of a run for run.json, which `kd doctor` reads."""

from collections.abc import Sequence
import os
from typing import Any

import numpy as np

from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import rows
from kd.input_pipeline import shard_files
from kd.run import resolved
from kd.train import evaluate

_LOOKED_AT = 4  # Rows of a task.


def describe(
  run: resolved.Run,
  train: Sequence[prepared_lib.Prepared],
  held_out: Sequence[evaluate.HeldOut],
) -> dict[str, Any]:
  """Returns facts on the rows as JSON values.

  Args:
    run: the resolved run.
    train: the rows to train on.
    held_out: the held-out sets.

  Returns:
    `train`: folder, counts and bytes of each task, and the number of examples
    in its first rows that begin with BOS (None without a BOS id). `held_out`:
    the folders of each set by task.
  """
  bos = run.tokenizer.bos_id
  return {
    'train': [_task(task_rows, bos) for task_rows in train],
    'held_out': {
      held.name: {p.task: p.folder for p in held.prepared} for held in held_out
    },
  }


def _task(task_rows, bos):
  counts = task_rows.counts
  files = task_rows.files(shard_files.ROWS)
  read = rows.first(task_rows, _LOOKED_AT)
  begins = np.concatenate(
    [r['tokens'][(r['positions'] == 0) & (r['segment_ids'] > 0)] for r in read]
  )
  kept = ('rows', 'examples', 'tokens', 'target_weight', 'too_long', 'fill')
  return {
    'task': task_rows.task,
    'folder': task_rows.folder,
    'bytes': sum(os.path.getsize(file) for file in files),
    **{name: counts[name] for name in kept},
    'begins': len(begins),
    'with_bos': None if bos is None else int((begins == bos).sum()),
  }
