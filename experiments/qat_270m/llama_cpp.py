"""Compares llama.cpp's and kd's log-probabilities of the exported GGUF.

  python -m experiments.qat_270m.llama_cpp WORKDIR

WORKDIR is a run that --mode=export exported in Q4_0. Both programs score
targets of its held-out sets from the same file; llama.cpp runs in
KD_ORACLES_PYTHON. Prints a line for each set.
"""

import os
import sys
import tempfile

import jax
import numpy as np

from kd.checkpoints import weights
from kd.core import errors
from kd.core import types
from kd.input_pipeline import rows as rows_lib
from kd.models import families
from kd.models import family
from kd.run import session
from kd.run import workdirs
from kd.train import evaluate
from tests.oracles import client

_FILE = os.path.join('export', 'gguf', 'model-Q4_0.gguf')
_PER_ROW = 2  # Targets: for each, llama.cpp writes the whole distribution.


def _places(batch: types.Batch) -> list[tuple[int, int]]:
  """Returns (row, position) of some targets, the last one of each row first."""
  places = []
  for row, row_weights in enumerate(batch.weights):
    supervised = np.flatnonzero(row_weights)
    steps = np.linspace(len(supervised) - 1, 0, _PER_ROW + 1)[:_PER_ROW]
    places += [(row, int(supervised[int(i)])) for i in steps]
  return places


def _log_probs(
  model: family.Model,
  params: types.PyTree,
  batch: types.Batch,
  places: list[tuple[int, int]],
) -> np.ndarray:
  """Returns kd's log-probabilities of the targets at `places`, [N]."""

  @jax.jit
  def score(params):
    hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
    rows, positions = np.array(places).T
    logits = hidden[rows, positions] @ model.unembedding(params).T
    chosen = np.asarray(batch.targets)[rows, positions]
    return jax.nn.log_softmax(logits)[np.arange(len(places)), chosen]

  return np.asarray(score(params))


def main(workdir: str) -> None:
  """Prints the mean NLL of both programs and their differences."""
  config = workdirs.recorded_config(workdir)
  if config is None:
    raise errors.ConfigError('WORKDIR', f'{workdir!r} contains no run')
  run = session.open_trained(config, workdir)
  file = os.path.join(workdir, _FILE)
  init = f'gguf:{file}'
  model = families.build(
    weights.model_config(init, 'WORKDIR'), 'float32', 'none', 'student'
  )
  params = weights.load(init, model, None, (), 'float32', 'WORKDIR')
  prompts, ours, targets = {}, {}, {}
  for held_out in evaluate.prepare_sets(run, session.say):
    count = sum(p.counts['rows'] for p in held_out.prepared)
    (batch,) = rows_lib.batches(held_out.prepared, count, range(count))
    places = _places(batch)
    ours[held_out.name] = _log_probs(model, params, batch, places)
    for i, (row, position) in enumerate(places):
      key = f'{held_out.name}.{i}'
      prompts[key] = batch.tokens[row, : position + 1]
      targets[key] = batch.targets[row, position]
  with tempfile.TemporaryDirectory() as folder:
    case = {'file': file, 'log_probs': list(prompts)}
    _, theirs = client.run('llama', 'models', {'a': case}, prompts, folder)
    for name, values in ours.items():
      keys = [f'{name}.{i}' for i in range(len(values))]
      other = np.array([theirs[f'a.{key}'][targets[key]] for key in keys])
      difference = np.abs(values - other)
      print(
        f'{name}: {len(keys)} targets, NLL {-other.mean():.4f} by llama.cpp, '
        f'{-values.mean():.4f} by kd; difference of a log-probability: median '
        f'{np.median(difference):.3f}, largest {difference.max():.3f} nats'
      )


if __name__ == '__main__':
  main(sys.argv[1])
