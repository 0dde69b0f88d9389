"""Computes what the stages of a pipeline cost, by formula."""

import dataclasses

import jax.numpy as jnp

from kd.models import pipeline
from kd.partitioning import rules
from kd.run import resolved


@dataclasses.dataclass(frozen=True)
class Stages:
  """The stages in which a model's layers run; one without a pipeline.

  Attributes:
    count: P, their number.
    micro_batches: M, which pass through them; 1 without a pipeline.
    fraction: of the layers, those that run in stages: the layers behind the
      last whole period do not.
  """

  count: int
  micro_batches: int
  fraction: float

  @property
  def ticks(self) -> int:
    """The number of times that a stage runs its layers in a pass."""
    return self.micro_batches + self.count - 1

  @property
  def bubble(self) -> float:
    """The fraction of a pass in which a stage has nothing to do."""
    return 1 - self.micro_batches / self.ticks

  @property
  def repeated(self) -> float:
    """What a device computes of the layers, relative to its share of them.

    In bubbles it computes as at other times, with zeros.
    """
    in_stages = self.fraction * self.ticks / self.micro_batches
    return in_stages + 1 - self.fraction

  @property
  def gathers(self) -> float:
    """How often a device gathers the weights of all layers in a pass."""
    in_stages = self.fraction * self.ticks / self.count
    return in_stages + 1 - self.fraction

  def at_a_time(self, tokens: float) -> float:
    """Returns the tokens that a layer of a stage computes at a time.

    Args:
      tokens: of a pass on a device, with rows split over the stages too.
    """
    return tokens * self.count / self.micro_batches

  def sent(self, tokens: float, width: int, itemsize: int) -> float:
    """Returns bytes that a device receives from other stages in a pass.

    Args:
      tokens: of the pass on a device, with rows split over the stages too.
      width: D.
      itemsize: bytes of an activation.
    """
    if self.count == 1:
      return 0.0
    each = self.at_a_time(tokens) * width * itemsize
    # A stage between others receives activations and rows to start with; the
    # first and the last one of the two.
    ways = 2 if self.count > 2 else 1
    return ways * self.ticks * each


def of(model: resolved.Model, rows: int) -> Stages:
  """Returns the stages of a model in a pass over that many rows.

  Args:
    model: the model.
    rows: of a pass, over all devices; of an update, those of a micro-batch.
  """
  config, count = model.config, model.mesh.shape[rules.PIPELINE]
  if count == 1:
    return Stages(1, 1, 1.0)
  micro_batches = pipeline.micro_batches(
    model.module.core.pipeline_micro_batches,
    rows // rules.stage_row_shards(model.mesh),
    count,
  )
  scanned = config.scan_groups * config.scan_period
  return Stages(count, micro_batches, scanned / config.num_layers)


def of_update(run: resolved.Run) -> Stages:
  """Returns the stages of the student in each pass of an update."""
  config = run.config
  rows = config.data.batch_size // config.optimizer.micro_batches
  return of(run.student, rows)


def sent_in_update(run: resolved.Run) -> float:
  """Returns bytes that a device receives from other stages in an update.

  Activations, and their gradients the other way.
  """
  data, micro = run.config.data, run.config.optimizer.micro_batches
  shards = rules.row_shards(run.mesh) * rules.length_shards(run.mesh)
  sent = of_update(run).sent(
    data.batch_size * data.length / shards / micro,
    run.student.config.embed_dim,
    jnp.dtype(run.student.module.dtype).itemsize,
  )
  return 2 * micro * sent
