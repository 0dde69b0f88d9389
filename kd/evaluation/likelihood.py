"""Measures the likelihood of held-out targets and distance to the teacher."""

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
    model: the model that is evaluated.
    teacher_targets: a live teacher, or None.
    names: how errors call the model, then each teacher.
    mesh: the mesh that rows are put on.
    batch_size: rows of a batch, over all processes.
    chunk_tokens: tokens whose logits exist at one time.
    detailed: whether to compute the scores of a benchmark too.

  Returns:
    A function of (params, batches), each batch with this process's rows of it
    (placement.local_rows), to float64 arrays with an entry a row, in
    order: 'weight', 'nll', 'accuracy' and, with a teacher, 'kl' and
    'agreement', each a sum over the row's target tokens. In detail there are
    also 'row', the row_id, calibration's columns and, with a teacher,
    'top5_agreement' and 'acceptance'. Rows without targets are left out. It
    raises NonFiniteError where a model's logits are NaN or infinite.
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
    # Whole on every device, so that each process can read them.
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
  """Returns the sums alone, or raises NonFiniteError with the models' names."""
  counts = by_row.pop('nonfinite').sum(axis=0)
  # Without targets no teacher was asked.
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
    scores: from the function that make returns.

  Returns:
    'nll' in nats per token, 'perplexity', 'accuracy' from 0 to 1, and with a
    teacher 'kl' in nats per token and 'agreement' from 0 to 1. If the scores
    have them, also 'ece', 'top5_agreement' and 'acceptance', from 0 to 1.
  """
  weight = scores['weight'].sum()
  means = {
    key: float(scores[key].sum() / weight) for key in _MEANS if key in scores
  }
  if calibration.is_in(scores):
    means['ece'] = calibration.error(scores).value
  return {**means, 'perplexity': math.exp(min(means['nll'], 700.0))}
