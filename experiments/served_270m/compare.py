"""Prints the losses of each step.

  python -m experiments.served_270m.compare FOLDER RUN [RUN ...]

FOLDER has the workdirs by their names. What is printed is in
FOLDER/results.json, too: differences are from the second run.
"""

from collections.abc import Sequence
import json
import os
import sys

import numpy as np

from kd.core import atomic_files


def _losses(workdir: str) -> list[float]:
  with open(os.path.join(workdir, 'metrics.jsonl'), encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  return [row['train/loss/kl'] for row in rows if 'train/loss/kl' in row]


def main(folder: str, names: Sequence[str]) -> None:
  """Compares the runs."""
  losses = {name: _losses(os.path.join(folder, name)) for name in names}
  reference = np.array(losses[names[1]])
  results = {
    name: {
      'loss': values,
      'largest difference': float(np.abs(values - reference).max()),
    }
    for name, values in losses.items()
  }
  atomic_files.write_json(os.path.join(folder, 'results.json'), results)
  print(json.dumps(results, indent=2))


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2:])
