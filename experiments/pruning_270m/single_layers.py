"""Compares importance of layers with brute force: the NLL without each.

  python -m experiments.pruning_270m.single_layers WEIGHTS SCORES ROWS

WEIGHTS is hf:DIR or gguf:FILE, SCORES the scores.json of --mode=prune, ROWS the
number of held-out rows of GSM8K. Prints a line for each layer and the rank
correlation. A layer of Gemma 3 adds the outputs of the norms after attention
and after the MLP: with their weights, 1 + w, at zero it adds nothing.
"""

import sys

import jax
import numpy as np

from kd.configs import gemma3_270m_gsm8k
from kd.core import types
from kd.evaluation import likelihood
from kd.input_pipeline import rows as rows_lib
from kd.models import families
from kd.models import family
from kd.models import tensors as tensors_lib
from kd.pruning import scores as scores_lib
from kd.run import load_params
from kd.run import resolve_student
from kd.run import session
from kd.train import evaluate

_ROWS = 4  # Per batch.


def without(
  params: types.PyTree, config: family.Config, layer: int
) -> types.PyTree:
  """Returns parameters with which a layer adds nothing."""
  result = jax.tree.map(lambda x: x, params)
  for t in families.of(config).tensors(config):
    if t.layer == layer and t.path[-2].startswith('post_'):
      leaf = tensors_lib.leaf(params, t.path)
      value = leaf[t.group] if t.group is not None else leaf
      zero = value * 0 - t.gguf_offset
      changed = zero if t.group is None else leaf.at[t.group].set(zero)
      tensors_lib.set_leaf(result, t.path, changed)
  return result


def main(init: str, scores: str, rows: int) -> None:
  """Prints importance and NLL of each layer."""
  config = gemma3_270m_gsm8k.get_config(init)
  config.student.init, config.student.keep_layers = init, ()
  config.evaluation.sets.held_out.examples = rows
  run = resolve_student.resolve_student(config, jax.devices(), '')
  (held_out,) = evaluate.prepare_sets(run, session.say)
  batches = list(rows_lib.batches(held_out.prepared, _ROWS, range(_ROWS)))
  model, params = run.student, load_params.load(run.student, 0, '', None)
  score = likelihood.Scorer(
    model.module, None, ['model'], run.mesh, _ROWS, chunk_tokens=64
  )

  def nll(params):
    return likelihood.summarize(score(params, batches))['nll']

  importance = scores_lib.read(scores, 'SCORES').layers
  whole, losses = nll(params), []
  print(f'with all layers: {whole:.4f} nats per token')
  for layer, value in enumerate(importance):
    losses.append(nll(without(params, model.config, layer)))
    print(f'without layer {layer}: {losses[-1]:.4f}, importance {value:.5f}')
  ranks = [np.argsort(np.argsort(x)) for x in (losses, importance)]
  print(f'rank correlation: {np.corrcoef(*ranks)[0, 1]:.3f}')


if __name__ == '__main__':
  weights, file, number = sys.argv[1:]
  main(weights, file, int(number))
