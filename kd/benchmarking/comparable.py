"""Decides which models and earlier benchmarks have the same examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd.benchmarking import models
from kd.benchmarking import record
from kd.core import errors
from kd.train import evaluate


def identity(
  opened: models.Opened, held_out: evaluate.HeldOut
) -> dict[str, Any]:
  """Returns what the examples of a set and their answers depend on."""
  config = opened.run.config
  return {
    **held_out.identity,
    'template': config.data.template,
    'tokenizer': opened.run.tokenizer.digest,
    'max_new_tokens': config.evaluation.max_new_tokens,
  }


def check(
  opened: Sequence[models.Opened],
  identities: Mapping[str, Any],
  earlier: Sequence[record.Earlier],
) -> None:
  """Raises ConfigError unless all models are measured on the same rows.

  Args:
    opened: the models; the identities are those of the first.
    identities: by set, see `identity`.
    earlier: the earlier benchmarks.
  """
  first, *others = opened
  for other in others:
    for held_out in evaluate.prepare_sets(other.run, lambda line: None):
      there = identity(other, held_out)
      here = identities[held_out.name]
      differ = [key for key in here if here[key] != there[key]]
      if differ:
        raise errors.ConfigError(
          'MODEL',
          f'{other.place!r} has other {", ".join(differ)} than '
          f'{first.place!r} on set {held_out.name!r}',
          legal='models with one tokenizer and template',
        )
  for one in earlier:
    if not same_sets(identities, one):
      raise errors.ConfigError(
        'benchmark.earlier',
        f'{one.entry.title!r} has none of the sets {", ".join(identities)} '
        'with the same examples, template and tokenizer',
        legal='a benchmark with the same evaluation.sets',
      )


def same_sets(
  identities: Mapping[str, Any], earlier: record.Earlier
) -> list[str]:
  """Returns the sets that an earlier benchmark measured on the same rows."""
  return [
    name
    for name, here in identities.items()
    if earlier.identities.get(name) == here
  ]
