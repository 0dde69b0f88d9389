"""The interface of a feed, which supplies each training step's inputs.

teacher.source names one, by kd/run/source.py. A file of this package defines
two classes, or the first alone if the base class of the second serves it:

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

# Maps (step, indices in the step's batch) to these rows.
Rows = Callable[[int, np.ndarray], types.Batch]
# From a batch on the student's mesh, and maps of layers that the targets are to
# have, to the targets of the live teachers.
LiveTargets = Callable[..., distributions.Targets]


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
    layer_maps: of terms with adaptive maps, whose layers the next targets have;
      None: they have all that a map may name.
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
      rows: reads rows of a step's batch.
      digest: see the class.
      teacher_names: see the class.
      targets: from a batch to its targets; None: there are none.
      for_teacher: adds the teacher's rows to a batch of numpy arrays; None: it
        reads the student's.
    """
    self._targets = targets
    self._for_teacher = for_teacher
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
    return self._with_teacher(self._rows(step, self._local_rows))

  def _with_teacher(self, rows):
    """Returns rows with what their teachers need in addition."""
    return self._for_teacher(rows) if self._for_teacher else rows

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
    targets = self._score(batch) if self._targets else None
    return StepInputs(batch, targets, placing_s)

  def _score(self, batch):
    """Returns the live teachers' targets of a batch on the mesh."""
    if self.layer_maps is None:
      return self._targets(batch)
    return self._targets(batch, self.layer_maps)

  def _place(self, tree):
    """Returns the tree on the student's mesh, and seconds."""
    began = time.monotonic()
    placed = placement.place(tree, self._mesh, self._batch_size)
    return placed, time.monotonic() - began

  def state(self) -> dict[str, np.ndarray]:
    """Returns the state that a checkpoint holds."""
    return {}

  def expect(self, names: Collection[str]) -> None:
    """Makes `state` have the arrays of a checkpoint, before it is read.

    Args:
      names: of the arrays.
    """
    del names

  def load(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores what `state` returned."""

  def close(self) -> None:
    """Stops what it does in the background, by default nothing."""
