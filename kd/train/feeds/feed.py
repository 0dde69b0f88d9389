"""The interface of a feed, which supplies each training step's inputs.

teacher.source selects a feed; see kd/run/source.py. A file of this package
defines two classes, or only the first if the base class of the second suffices:

  Source: checks the config and opens files; creates the Feed.
  Feed: supplies the batch and targets of each training step.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import time
from typing import Any

import numpy as np

from kd.core import types
from kd.losses import distributions
from kd.partitioning import placement
from kd.run import resolved

# Function from (step, indices in the step's batch) to these rows.
Rows = Callable[[int, np.ndarray], types.Batch]
# Function from a batch on the student's mesh, and layer maps that select the
# targets' layers, to the targets of the live teachers.
LiveTargets = Callable[..., distributions.Targets]


@dataclasses.dataclass(frozen=True)
class StepInputs:
  """The inputs of one training step.

  Attributes:
    batch: the batch on the student's mesh.
    targets: targets of the teachers, or None without a teacher.
    metrics: scalars of this step by name.
    texts: an example of the step's batch, as Markdown by name.
    placing_s: seconds to move the batch to the devices.
    sampling_s: seconds to sample from the student.
  """

  batch: types.Batch
  targets: distributions.Targets | None
  placing_s: float
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
  texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  sampling_s: float = 0.0


class Feed:
  """Supplies batches, with the targets of live teachers if there are any.

  The base class of all feeds.

  Attributes:
    digest: digest of the rows, their order and all inputs that are read with
      them. Training resumes only from a checkpoint with the same digest.
    teacher_names: name of each teacher of the targets, for messages.
    layer_maps: maps of adaptive terms that select the layers of the next
      targets; None for all layers that a map may select.
  """

  layer_maps: Mapping[str, np.ndarray] | None = None

  def __init__(
    self,
    run: resolved.Run,
    rows: Rows,
    digest: str,
    teacher_names: Sequence[str] = (),
    targets: Callable[[Any], distributions.Targets] | None = None,
    for_teacher: Callable[[types.Batch], types.Batch] | None = None,
  ):
    """Opens the feed.

    Args:
      run: the resolved config.
      rows: function that reads rows of a step's batch.
      digest: see the class.
      teacher_names: see the class.
      targets: function from a batch to its targets; None if there are none.
      for_teacher: function that adds the teachers' own rows and weights to a
        batch of numpy arrays; None if they score the student's rows.
    """
    self._targets = targets
    self._for_teacher = for_teacher
    self._rows, self._mesh = rows, run.mesh
    self._batch_size = run.config.data.batch_size
    self._local_rows = placement.local_rows(run.mesh, self._batch_size)
    self.digest, self.teacher_names = digest, tuple(teacher_names)

  def read(self, step: int) -> types.PyTree:
    """Reads this process's inputs of a step, as numpy arrays.

    Runs in the read-ahead thread, some steps before `__call__`.

    Args:
      step: number of updates before the step.
    """
    return self._with_teacher(self._rows(step, self._local_rows))

  def _with_teacher(self, rows):
    """Returns rows with the additional inputs of their teachers."""
    return self._for_teacher(rows) if self._for_teacher else rows

  def __call__(
    self, step: int, params: types.PyTree, read: types.PyTree
  ) -> StepInputs:
    """Returns the inputs of a training step.

    Args:
      step: number of updates before the step.
      params: the student's parameters after these updates.
      read: result of `read` for the step.

    Raises:
      NonFiniteError: the student's logits were not finite during sampling.
    """
    del step, params
    batch, placing_s = self._place(read)
    targets = self._score(batch) if self._targets else None
    return StepInputs(batch, targets, placing_s)

  def _score(self, batch):
    """Returns the live teachers' targets of a batch on the mesh."""
    if self.layer_maps is None:
      return self._targets(batch)
    return self._targets(batch, self.layer_maps)

  def _place(self, tree):
    """Returns the tree on the student's mesh, and the seconds to move it."""
    began = time.monotonic()
    placed = placement.place(tree, self._mesh, self._batch_size)
    return placed, time.monotonic() - began

  def state(self) -> dict[str, np.ndarray]:
    """Returns the state to save in checkpoints."""
    return {}

  def expect(self, names: Collection[str]) -> None:
    """Prepares `state` for the arrays of a checkpoint before it is read.

    Args:
      names: names of the arrays.
    """
    del names

  def load(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores the result of `state`."""

  def close(self) -> None:
    """Stops background work; the base class has none."""
