"""The interface of a feed: where a step's batch and targets come from.

teacher.source names one. A file of this package defines two classes, or the
first alone if the base class of the second serves it:

  Source: checks the config and opens files; creates the Feed.
  Feed: supplies the batch and targets of each training step.

A new feed is a file here and a line in `_MODULES`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from kd.core import errors
from kd.core import types
from kd.input_pipeline import prepare
from kd.losses import distributions
from kd.losses import objective as objective_lib
from kd.partitioning import placement
from kd.train import resolved

Config = ml_collections.ConfigDict
# Maps (step, indices in the step's batch) to these rows.
Rows = Callable[[int, np.ndarray], types.Batch]
# From a batch on the student's mesh to the targets of the live teachers.
LiveTargets = Callable[[types.Batch], distributions.Targets]

# By the value of teacher.source.
_MODULES = {
  'none': 'labels',
  'live': 'live',
  'cached': 'cached',
  'on_policy': 'on_policy',
}


@dataclasses.dataclass(frozen=True)
class StepInputs:
  """The inputs of one training step.

  Attributes:
    batch: on the student's mesh.
    targets: the teachers', or None without a teacher.
    metrics: scalars of this step, by name.
    texts: Markdown by name: an example of what the step trains on.
    placing_s: seconds that moving the batch to the devices took.
    sampling_s: seconds that sampling from the student took.
  """

  batch: types.Batch
  targets: distributions.Targets | None
  placing_s: float
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
  texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  sampling_s: float = 0.0


class Feed:
  """Supplies batches, with the targets of live teachers if there are any.

  The base of all feeds.

  Attributes:
    digest: of the rows, their order and everything that is read with them. A
      checkpoint records it; training resumes from the same digest only.
    teacher_names: the name of each teacher of the targets, for messages.
  """

  def __init__(
    self,
    run: resolved.Run,
    rows: Rows,
    digest: str,
    teacher_names: Sequence[str] = (),
    targets: Callable[[Any], distributions.Targets] | None = None,
  ):
    """Opens the feed.

    Args:
      run: the resolved config.
      rows: reads rows of a step's batch.
      digest: see the class.
      teacher_names: see the class.
      targets: from a batch to its targets; None: there are none.
    """
    self._targets = targets
    self._rows, self._mesh = rows, run.mesh
    self._batch_size = run.config.data.batch_size
    self._local_rows = placement.local_rows(run.mesh, self._batch_size)
    self.digest, self.teacher_names = digest, tuple(teacher_names)

  def read(self, step: int) -> types.PyTree:
    """Reads what this process needs for a step, as numpy arrays.

    Runs on the read-ahead thread, some steps before `__call__`.

    Args:
      step: updates applied before the step.
    """
    return self._rows(step, self._local_rows)

  def __call__(
    self, step: int, params: types.PyTree, read: types.PyTree
  ) -> StepInputs:
    """Returns what the step trains on.

    Args:
      step: updates applied before the step.
      params: the student's parameters after these updates.
      read: what `read` returned for the step.

    Raises:
      NonFiniteError: sampling from the student gave NaN or infinite logits.
    """
    del step, params
    batch, placing_s = self._place(read)
    targets = self._targets(batch) if self._targets else None
    return StepInputs(batch, targets, placing_s)

  def _place(self, tree):
    """Returns the tree on the student's mesh, and seconds."""
    began = time.monotonic()
    placed = placement.place(tree, self._mesh, self._batch_size)
    return placed, time.monotonic() - began

  def state(self) -> dict[str, np.ndarray]:
    """Returns the state that a checkpoint holds; its shapes never change."""
    return {}

  def load(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores what `state` returned."""


class Source:
  """Builds the feed that a value of teacher.source names.

  The base class serves teacher.source='none'.

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
          legal="all, answer, rationale, or teacher.source='on_policy'",
        )

  def sampling(self) -> Config | None:
    """Returns the config section of the student's sampling, or None."""
    return None

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

  def digest(self, opened: Any) -> str | None:
    """Returns the digest of the files that `open` returned, or None."""
    del opened

  def feed(
    self,
    run: resolved.Run,
    rows: Rows,
    digest: str,
    opened: Any,
    live_targets: LiveTargets | None,
  ) -> Feed:
    """Returns the feed.

    Args:
      run: the resolved config.
      rows: reads rows of a step's batch.
      digest: see Feed.
      opened: what `open` returned.
      live_targets: the live teachers' targets; None if none is loaded.
    """
    del opened
    return Feed(run, rows, digest, self.teacher_names(), live_targets)


def source(config: Config) -> Source:
  """Returns the source that teacher.source names."""
  # Imported lazily: these modules import this one.
  module = _MODULES[config.teacher.source]
  return importlib.import_module(f'kd.train.feeds.{module}').Source(config)
