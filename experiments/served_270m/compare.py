"""Prints the losses of each step.

  python -m experiments.served_270m.compare FOLDER RUN [RUN ...]

FOLDER contains the workdirs by their names. The printed values are also written
to FOLDER/results.json. Differences are those from the second run.
"""

from collections.abc import Sequence
import json
import os
import sys

import numpy as np

from experiments import summary
from kd.core import atomic_files


def main(folder: str, names: Sequence[str]) -> None:
  """Compares the runs."""
  losses = {}
  for name in names:
    lines = summary.training_metrics(os.path.join(folder, name))
    losses[name] = [line['train/loss/kl'] for line in lines]
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
