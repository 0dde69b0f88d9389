"""Supports a teacher with a prefix before each example."""

from collections.abc import Sequence

import ml_collections

from kd.core import errors
from kd.input_pipeline import prefix_template
from kd.input_pipeline import prefixes
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import teacher_rows
from kd.losses import objective as objective_lib
from kd.run import own_tokenizer
from kd.run import resolved

Config = ml_collections.ConfigDict | ml_collections.FrozenConfigDict

_LIVE = ('live', 'on_policy')


def of_rows(config: Config) -> str:
  """Returns the prefix that rows are prepared with: one with columns, or ''."""
  template = config.teacher.prefix
  return template if prefix_template.columns(template) else ''


def reads_own_rows(config: Config) -> bool:
  """Returns whether a live teacher's rows differ from the student's."""
  has_prefix = config.teacher.prefix and config.teacher.source in _LIVE
  return own_tokenizer.is_used(config) or bool(has_prefix)


def check(config: Config, objective: objective_lib.Objective) -> None:
  """Raises ConfigError for a run that does not support its teacher's prefix.

  Args:
    config: the run's config.
    objective: the training objective.

  Raises:
    ConfigError: the prefix is not supported.
  """
  teacher = config.teacher
  if not teacher.prefix:
    return
  prefix_template.columns(teacher.prefix)
  if teacher.source == 'none':
    raise errors.ConfigError(
      prefix_template.FIELD,
      f'found {teacher.prefix!r}, and teacher.source is {teacher.source!r}',
      legal="'', or another teacher.source",
    )
  if objective.teacher_taps.attention:
    raise errors.ConfigError(
      prefix_template.FIELD,
      f'found {teacher.prefix!r}, and a term compares attention maps, which '
      "have the prefix's keys too",
      legal="'', or losses without attention maps",
    )


def prefixes_of(
  run: resolved.Run, prepared: Sequence[prepared_lib.Prepared]
) -> prefixes.Prefixes:
  """Returns the prefixes of a run's batches.

  Args:
    run: the resolved config.
    prepared: the rows of each task of the mixture.
  """
  config, tokenizer = run.config, run.tokenizer
  if own_tokenizer.is_used(config):
    tokenizer = own_tokenizer.load(config.teacher.init)
  return prefixes.Prefixes(config.teacher.prefix, tokenizer, prepared)


def rows(
  run: resolved.Run,
  prepared: Sequence[prepared_lib.Prepared],
  all_fit: bool = False,
) -> teacher_rows.TeacherRows | teacher_rows.PrefixedRows | None:
  """Returns the object that adds the teacher's rows to batches, if it has any.

  Args:
    run: the resolved config.
    prepared: the rows of each task of the mixture.
    all_fit: whether to raise ConfigError for an example that does not fit,
      instead of omitting it.
  """
  if not reads_own_rows(run.config):
    return None
  found = prefixes_of(run, prepared) if run.config.teacher.prefix else None
  if own_tokenizer.is_used(run.config):
    return own_tokenizer.rows(run, found)
  return teacher_rows.PrefixedRows(
    found,
    run.tokenizer.bos_id,
    own_tokenizer.length(run.config),
    run.tokenizer.pad_id,
    all_fit,
  )
