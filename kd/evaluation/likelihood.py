"""Computes likelihoods of held-out targets and distances to the teacher."""

from collections.abc import Callable, Iterable, Sequence
import math

import jax
import numpy as np

from kd.core import errors
from kd.core import types
from kd.evaluation import calibration
from kd.losses import distributions
from kd.losses import eval_sums
from kd.models import family
from kd.partitioning import placement
from kd.partitioning import rules

Scores = dict[str, np.ndarray]

_MEANS = (
  *('nll', 'accuracy', 'kl', 'agreement'),
  *('top5_agreement', 'acceptance'),
)


def make(
  model: family.Model,
  teacher_targets: Callable[[types.Batch], distributions.Targets] | None,
  names: Sequence[str],
  mesh: jax.sharding.Mesh,
  batch_size: int,
  chunk_tokens: int,
  detailed: bool = False,
) -> Callable[[types.PyTree, Iterable[types.Batch]], Scores]:
  """Returns the function that scores rows.

  Args:
    model: the model to evaluate.
    teacher_targets: a live teacher, or None.
    names: names of the model and of each teacher in errors.
    mesh: mesh of the batches.
    batch_size: rows of a batch, over all processes.
    chunk_tokens: number of tokens whose logits are computed at a time.
    detailed: whether to add the scores of a benchmark.

  Returns:
    A function of (params, batches), where each batch has this process's rows
    (placement.local_rows). It returns float64 arrays with one entry per row, in
    order: 'weight', 'nll', 'accuracy' and, with a teacher, 'kl' and
    'agreement', each a sum over the row's target tokens. If `detailed`, there
    are also 'row' (the row_id), calibration columns and, with a teacher,
    'top5_agreement' and 'acceptance'. Rows without targets are left out. It
    raises NonFiniteError if a model's logits are NaN or infinite.
  """

  @jax.jit
  def score(params, batch, targets):
    hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
    by_row = eval_sums.by_row(
      hidden,
      model.unembedding(params),
      targets,
      batch,
      chunk_tokens,
      detailed,
    )
    if detailed:
      by_row['row'] = batch.row_id
    # Replicated, so that each process can read them.
    return {k: rules.constrain(v, (None,) * v.ndim) for k, v in by_row.items()}

  def run(params, batches):
    parts = []
    for batch in batches:
      placed = placement.place(batch, mesh, batch_size)
      targets = teacher_targets(placed) if teacher_targets else None
      with rules.active(mesh):
        by_row = jax.device_get(score(params, placed, targets))
      parts.append(_check_finite(by_row, names))
    joined = {k: v.astype(np.float64) for k, v in join(parts).items()}
    if detailed:
      joined |= calibration.columns(joined.pop('calibration'))
    scored = joined['weight'] > 0
    return {key: value[scored] for key, value in joined.items()}

  return run


def join(parts: Iterable[Scores]) -> Scores:
  """Joins the scores of several sets of rows."""
  parts = list(parts)
  return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def _check_finite(by_row, names):
  """Returns the sums, or raises NonFiniteError with the models' names."""
  counts = by_row.pop('nonfinite').sum(axis=0)
  # Without teacher targets there is no count for the teachers.
  named = zip(names, counts, strict=False)
  bad = dict.fromkeys(name for name, count in named if count)
  if bad:
    raise errors.NonFiniteError(
      f'the logits of {" and of ".join(bad)} are NaN or infinite: nothing was '
      'recorded',
      teachers=[name for name in bad if name in names[1:]],
    )
  return by_row


def summarize(scores: Scores) -> dict[str, float]:
  """Computes means over target tokens.

  Args:
    scores: result of a function from `make`.

  Returns:
    'nll' in nats per token, 'perplexity', 'accuracy' from 0 to 1, and with a
    teacher 'kl' in nats per token and 'agreement' from 0 to 1. For detailed
    scores, also 'ece', 'top5_agreement' and 'acceptance', from 0 to 1.
  """
  weight = scores['weight'].sum()
  means = {
    key: float(scores[key].sum() / weight) for key in _MEANS if key in scores
  }
  if calibration.is_in(scores):
    means['ece'] = calibration.error(scores).value
  return {**means, 'perplexity': math.exp(min(means['nll'], 700.0))}
