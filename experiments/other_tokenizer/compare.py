"""Compares students of several losses: results.json and a table.

  python -m experiments.other_tokenizer.compare FOLDER RUNS LOSS...

RUNS/LOSS/SEED are finished workdirs. Those of the first loss also have the
baseline, trained with labels only on the same rows and steps. results.json is
written to FOLDER.
"""

import glob
import os
import sys

from experiments import summary
from kd.core import atomic_files
from kd.train import report


def main(folder: str, runs: str, *losses: str) -> None:
  """Writes and prints the results of all students."""
  joined: summary.Results = {}
  for loss in losses:
    workdirs = sorted(glob.glob(os.path.join(runs, loss, '[0-9]*')))
    for name, row in summary.read(workdirs).items():
      if report.CROSS_ENTROPY in row:
        kept = {'labels alone': row[report.CROSS_ENTROPY]}
        joined.setdefault(name, {}).update(kept)
      joined.setdefault(name, {})[loss] = row[report.AFTER]
  atomic_files.write_json(os.path.join(folder, 'results.json'), joined)
  print(summary.table(joined))


if __name__ == '__main__':
  main(*sys.argv[1:])
