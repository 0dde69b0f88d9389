"""Computes likelihoods of held-out targets and distances to the teacher."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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


class Scorer:
  """Scores rows with one model; its parameters may change between calls."""

  def __init__(
    self,
    model: family.Model,
    teacher_targets: Callable[[types.Batch], distributions.Targets] | None,
    names: Sequence[str],
    mesh: jax.sharding.Mesh,
    batch_size: int,
    chunk_tokens: int,
    detailed: bool = False,
    with_tokens: bool = False,
  ):
    """Builds the compiled program.

    Args:
      model: the model to evaluate.
      teacher_targets: a live teacher, or None.
      names: names of the model and of each teacher in errors.
      mesh: mesh of the batches.
      batch_size: rows of a batch, over all processes.
      chunk_tokens: number of tokens whose logits are computed at a time.
      detailed: whether to add the scores of a benchmark.
      with_tokens: whether `token_kl` is called; it needs a teacher. The same
        program computes it, so that batches of one shape are compiled once.
    """
    self._targets, self._names = teacher_targets, names
    self._mesh, self._batch_size = mesh, batch_size
    self._detailed = detailed

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
        with_tokens,
      )
      if detailed:
        by_row['row'] = batch.row_id
      # Replicated, so that each process can read them.
      return {
        k: rules.constrain(v, (None,) * v.ndim) for k, v in by_row.items()
      }

    self._score = score

  def __call__(
    self, params: types.PyTree, batches: Iterable[types.Batch]
  ) -> Scores:
    """Scores rows.

    Args:
      params: parameters of the model.
      batches: batches of this process's rows (placement.local_rows).

    Returns:
      Float64 arrays with one entry per row, in order: 'weight', 'nll',
      'accuracy' and, with a teacher, 'kl' and 'agreement', each a sum over the
      row's target tokens. If `detailed`, there are also 'row' (the row_id),
      calibration columns and, with a teacher, 'top5_agreement' and
      'acceptance'. Rows without targets are left out.

    Raises:
      NonFiniteError: a model's logits are NaN or infinite.
    """
    parts = []
    for by_row in self._each(params, batches):
      by_row.pop('token_kl', None)
      parts.append(_check_finite(jax.device_get(by_row), self._names))
    joined = {k: v.astype(np.float64) for k, v in join(parts).items()}
    if self._detailed:
      joined |= calibration.columns(joined.pop('calibration'))
    scored = joined['weight'] > 0
    return {key: value[scored] for key, value in joined.items()}

  def token_kl(
    self, params: types.PyTree, batches: Iterable[types.Batch]
  ) -> np.ndarray:
    """Computes the KL from the teacher to the model at each target.

    Args:
      params: parameters of the model.
      batches: batches of this process's rows, as for `__call__`.

    Returns:
      Float32 [n, L], nats at temperature 1, by row over all processes; NaN
      without a target, and where logits are not finite.
    """
    parts = [x['token_kl'] for x in self._each(params, batches)]
    return np.concatenate(jax.device_get(parts))

  def _each(self, params, batches) -> Iterator[dict[str, jax.Array]]:
    """Yields the results of the compiled program for each batch."""
    for batch in batches:
      placed = placement.place(batch, self._mesh, self._batch_size)
      targets = self._targets(placed) if self._targets else None
      with rules.active(self._mesh):
        by_row = self._score(params, placed, targets)
      yield by_row


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
    scores: result of a Scorer.

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
