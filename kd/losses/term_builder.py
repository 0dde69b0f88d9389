"""Builds the terms of a config's `losses`."""

from collections.abc import Mapping
from typing import Any

from kd.core import errors
from kd.core import schedules
from kd.losses import chunk_likelihood
from kd.losses import cross_entropy
from kd.losses import divergence_terms
from kd.losses import layer_terms
from kd.losses import sorted_probabilities
from kd.losses import terms

# Importing them registers their terms.
TERM_MODULES = (
  *(layer_terms, divergence_terms, cross_entropy, chunk_likelihood),
  sorted_probabilities,
)


def build(
  losses: Mapping[str, Mapping[str, Any]], context: terms.Context
) -> tuple[terms.Term, ...]:
  """Returns the terms of the config's `losses`, ordered by key.

  Raises:
    ConfigError: a term has an unknown name or argument or a weight below 0, or
      needs a teacher but none is configured.
  """
  if not losses:
    raise errors.ConfigError(
      'losses', 'has no terms', legal='at least one term'
    )
  return tuple(
    _build(key, dict(losses[key]), context) for key in sorted(losses)
  )


def _build(key, spec, context):
  path = f'losses.{key}'
  for field in ('name', 'weight'):
    if field not in spec:
      raise errors.ConfigError(f'{path}.{field}', 'missing')
  weight = schedules.build(spec.pop('weight'), f'{path}.weight', context.steps)
  lowest, _ = schedules.extremes(weight, context.steps)
  if not lowest >= 0:
    raise errors.ConfigError(
      f'{path}.weight', f'found {lowest:g}', legal='a number, 0 or more'
    )
  loss = terms.TERMS.build(spec, path, context)
  if loss.needs_teacher and context.teacher is None:
    raise errors.ConfigError(path, 'needs a teacher, but none is configured')
  return terms.Term(key, weight, loss)
