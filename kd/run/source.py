"""The sources of a run's targets, used before weights and rows are read.

teacher.source names a source. Files of kd/train/feeds, or plugins, define two
classes each: a registered `Source` and the `Feed` that it creates.
"""

import abc
from collections.abc import Callable, Sequence
import importlib
from typing import Any

import jax
import ml_collections

from kd.core import errors
from kd.core import progress
from kd.core import registry
from kd.core import types
from kd.input_pipeline import prepare
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.run import resolved

Config = ml_collections.ConfigDict

# Functions from a checked config to its Source, by value of teacher.source.
SOURCES = registry.Registry('source of targets')
# Modules of kd.train.feeds that register the sources that come with kd.
_MODULES = {
  'none': 'labels',
  'live': 'live',
  'cached': 'cached',
  'on_policy': 'on_policy',
  'server': 'server',
  'on_policy_server': 'server',
}


class Source(abc.ABC):
  """Builds the feed that a value of teacher.source names.

  Attributes:
    computed_by: the value of teacher.source that computes the files of this
      source; None if it reads no files.
  """

  computed_by: str | None = None

  def __init__(self, config: Config):
    """Initializes the source of a checked config."""
    self._config = config

  def teacher_specs(self) -> dict[str, Config]:
    """Returns the sections of the teachers to load by path, `teacher` first."""
    return {}

  def tokenizer_inits(self) -> dict[str, str]:
    """Returns preferred sources of the tokenizer by the field that names them.

    Raises:
      ConfigError: files of the source do not match the config.
    """
    return {}

  def term_teacher(
    self, student: resolved.Model, teachers: Sequence[resolved.Teacher]
  ) -> resolved.Model | None:
    """Returns the model whose sizes the objective's terms are built with."""
    del student, teachers
    return None

  def check(
    self,
    mesh: jax.sharding.Mesh,
    student: resolved.Model,
    objective: objective_lib.Objective,
  ) -> None:
    """Raises ConfigError for an objective that the source does not support.

    Args:
      mesh: the student's mesh.
      student: the student.
      objective: the training objective.

    Raises:
      ConfigError: a field is unsupported.
    """
    del mesh, student
    for term in objective.terms:
      if term.loss.part == 'sampled':
        raise errors.ConfigError(
          f'losses.{term.key}.part',
          "found 'sampled', and the student samples nothing",
          legal="all, answer, rationale, or teacher.source='on_policy' or "
          "'on_policy_server'",
        )

  def sampling(self) -> Config | None:
    """Returns the config section for sampling from the student, or None."""
    return None

  def compile(
    self,
    run: resolved.Run,
    prepared: Sequence[prepare.Prepared],
    params: types.PyTree,
    say: progress.Say,
  ) -> None:
    """Compiles the programs that steps run in addition to the update.

    Args:
      run: the resolved config.
      prepared: the rows of each task of the mixture.
      params: parameters of the student.
      say: function that prints a line of progress.
    """
    del run, prepared, params, say

  def describe_teacher(self) -> str | None:
    """Describes a teacher that is not loaded in a line for --mode=check."""
    return 'teacher: none'

  def describe(self) -> list[str]:
    """Describes the source in further lines for --mode=check."""
    return []

  def teacher_names(self) -> tuple[str, ...]:
    """Returns the names of the targets' teachers, for messages."""
    return ()

  def abstract_targets(
    self, run: resolved.Run, model_config: Callable[..., Any]
  ) -> distributions.Targets | None:
    """Returns a step's targets as jax.ShapeDtypeStructs with shardings.

    Args:
      run: the resolved config.
      model_config: function that returns the sizes of a teacher that is not
        loaded; see model_sizes.source_config.
    """
    del run, model_config
    return None

  def open(
    self, run: resolved.Run, prepared: Sequence[prepare.Prepared]
  ) -> Any:
    """Opens the source's files, before anything is written.

    Args:
      run: the resolved config.
      prepared: the rows of each task of the mixture.

    Returns:
      The argument `opened` of `digest` and `feed`; None without files.

    Raises:
      ConfigError: the files belong to other rows or another config.
    """
    del run, prepared

  def file_warnings(self) -> list[str]:
    """Returns warnings about the files: their date, and changes since."""
    return []

  def close(self, opened: Any) -> None:
    """Closes the result of `open`, at the end of the run."""
    del opened

  def digest(self, opened: Any) -> str | None:
    """Returns the digest of the opened files, or None."""
    del opened

  @abc.abstractmethod
  def feed(
    self,
    run: resolved.Run,
    rows: Callable[..., Any],
    digest: str,
    opened: Any,
    live_targets: Callable[..., distributions.Targets] | None,
  ) -> Any:
    """Returns the feed.Feed.

    Args:
      run: the resolved config.
      rows: function that reads rows of a step's batch; see feed.Rows.
      digest: see feed.Feed.
      opened: result of `open`.
      live_targets: function that computes the live teachers' targets, or None;
        see feed.LiveTargets.
    """


def of(config: Config) -> Source:
  """Returns the source that teacher.source names."""
  # Imported lazily, since these modules import this one and large libraries.
  name = config.teacher.source
  if name in _MODULES:
    importlib.import_module(f'kd.train.feeds.{_MODULES[name]}')
  return SOURCES[name](config)
