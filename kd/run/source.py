"""Where the targets of a run come from, asked before weights and rows are read.

teacher.source names a source. A feed is a file of kd/train/feeds, or a plugin,
with two classes: a registered `Source`, and the `Feed` that it creates.
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

# From a checked config to its Source, by the value of teacher.source.
SOURCES = registry.Registry('source of targets')
# The modules of kd.train.feeds that register the sources that come with kd.
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
    computed_by: the value of teacher.source that computes what this source
      reads from files; None if it reads none.
  """

  computed_by: str | None = None

  def __init__(self, config: Config):
    """Initializes the source of a checked config."""
    self._config = config

  def teacher_specs(self) -> dict[str, Config]:
    """Returns the section of each teacher to load, by path.

    The first is `teacher`.
    """
    return {}

  def tokenizer_inits(self) -> dict[str, str]:
    """Returns where the tokenizer is read from first, by the field's path.

    Raises:
      ConfigError: files of the source do not fit the config.
    """
    return {}

  def term_teacher(
    self, student: resolved.Model, teachers: Sequence[resolved.Teacher]
  ) -> resolved.Model | None:
    """Returns the model whose sizes terms of the objective are built with."""
    del student, teachers
    return None

  def check(
    self,
    mesh: jax.sharding.Mesh,
    student: resolved.Model,
    objective: objective_lib.Objective,
  ) -> None:
    """Raises ConfigError for an objective that the source cannot serve.

    Args:
      mesh: the student's devices.
      student: the student.
      objective: the training objective.

    Raises:
      ConfigError: names the field.
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
    """Returns the config section of the student's sampling, or None."""
    return None

  def compile(
    self,
    run: resolved.Run,
    prepared: Sequence[prepare.Prepared],
    params: types.PyTree,
    say: progress.Say,
  ) -> None:
    """Compiles what steps run in addition to the update, before the first.

    Args:
      run: the resolved config.
      prepared: the rows of each task of the mixture.
      params: the student's.
      say: prints a line of progress.
    """
    del run, prepared, params, say

  def describe_teacher(self) -> str | None:
    """Returns a line on a teacher that is not loaded, for --mode=check."""
    return 'teacher: none'

  def describe(self) -> list[str]:
    """Returns more lines on the source for --mode=check."""
    return []

  def teacher_names(self) -> tuple[str, ...]:
    """Returns the name of each teacher of the targets, for messages."""
    return ()

  def abstract_targets(
    self, run: resolved.Run, model_config: Callable[..., Any]
  ) -> distributions.Targets | None:
    """Returns a step's targets as jax.ShapeDtypeStructs with shardings.

    Args:
      run: the resolved config.
      model_config: finds the sizes of a teacher that is not loaded; see
        model_sizes.source_config.
    """
    del run, model_config
    return None

  def open(
    self, run: resolved.Run, prepared: Sequence[prepare.Prepared]
  ) -> Any:
    """Opens the source's own files, before anything is written.

    Args:
      run: the resolved config.
      prepared: the rows of each task of the mixture.

    Returns:
      What `digest` and `feed` take as `opened`; None without files.

    Raises:
      ConfigError: they belong to other rows or another config.
    """
    del run, prepared

  def file_warnings(self) -> list[str]:
    """Returns lines on the files that are used: their date, and changes."""
    return []

  def close(self, opened: Any) -> None:
    """Ends what `open` began, when the run ends; by default nothing."""
    del opened

  def digest(self, opened: Any) -> str | None:
    """Returns the digest of the files that `open` returned, or None."""
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
      rows: reads rows of a step's batch; see feed.Rows.
      digest: see feed.Feed.
      opened: what `open` returned.
      live_targets: the live teachers' targets; None if none is loaded; see
        feed.LiveTargets.
    """


def of(config: Config) -> Source:
  """Returns the source that teacher.source names."""
  # Imported lazily: these modules import this one, and more than it needs.
  name = config.teacher.source
  if name in _MODULES:
    importlib.import_module(f'kd.train.feeds.{_MODULES[name]}')
  return SOURCES[name](config)
