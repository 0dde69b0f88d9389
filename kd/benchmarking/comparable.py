"""Determines which models and earlier benchmarks have the same examples."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from kd.benchmarking import models
from kd.benchmarking import record
from kd.core import errors
from kd.evaluation import results
from kd.teachers import live
from kd.teachers import param_digest
from kd.train import evaluate

# Patterns of the metrics that depend on each of `settings`.
_DEPENDENT = {
  'teachers': r'kl|agreement|top5_agreement|acceptance',
  'samples': r'pass@\d+',
  'answer_format': 'format_errors',
}


def identity(
  opened: models.Opened, held_out: evaluate.HeldOut
) -> dict[str, Any]:
  """Returns all inputs that determine a set's examples and answers."""
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
    opened: the models.
    identities: `identity` of the first model, by set.
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
  """Returns the sets for which an earlier benchmark has the same rows."""
  return [
    name
    for name, here in identities.items()
    if earlier.identities.get(name) == here
  ]


def settings(
  opened: models.Opened, teachers: Sequence[live.Teacher]
) -> dict[str, Any]:
  """Returns the settings other than examples that affect some metrics.

  Args:
    opened: the model.
    teachers: the teachers, with parameters.
  """
  fields = opened.run.config.benchmark
  names = ('samples', 'temperature', 'top_p', 'seed')
  return {
    'teachers': [
      [param_digest.of(teacher.params), teacher.weight] for teacher in teachers
    ],
    'samples': {name: fields[name] for name in names},
    'answer_format': fields.answer_format,
  }


def without_others(
  earlier: record.Earlier, here: Mapping[str, Any]
) -> record.Earlier:
  """Drops metrics that an earlier benchmark measured with other settings.

  Args:
    earlier: the earlier benchmark.
    here: `settings` of this benchmark.
  """
  there = earlier.settings
  patterns = [
    pattern
    for name, pattern in _DEPENDENT.items()
    if name not in there or there[name] != here[name]
  ]
  if not patterns:
    return earlier
  dropped = re.compile('|'.join(patterns))
  entry = earlier.entry
  entry = dataclasses.replace(
    entry,
    runs=[_without(run, dropped) for run in entry.runs],
    mean=_without(entry.mean, dropped),
  )
  return dataclasses.replace(earlier, entry=entry)


def _without(result: results.Result, dropped: re.Pattern) -> results.Result:
  """Returns a result without the metrics whose last name matches `dropped`."""
  return dataclasses.replace(
    result,
    metrics={
      name: value
      for name, value in result.metrics.items()
      if not dropped.fullmatch(name.rpartition('/')[2])
    },
    scores={
      name: {k: x for k, x in columns.items() if not dropped.fullmatch(k)}
      for name, columns in result.scores.items()
    },
  )
