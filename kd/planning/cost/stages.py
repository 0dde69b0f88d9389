"""Computes the cost of pipeline stages by formula."""

import dataclasses

import jax.numpy as jnp

from kd.models import pipeline
from kd.partitioning import rules
from kd.run import resolved


@dataclasses.dataclass(frozen=True)
class Stages:
  """The pipeline stages of a model's layers; one without a pipeline.

  Attributes:
    count: P, number of stages.
    micro_batches: M, number of parts that pass through them; 1 without a
      pipeline.
    fraction: fraction of the layers that run in stages; layers after the last
      full period do not.
  """

  count: int
  micro_batches: int
  fraction: float

  @property
  def ticks(self) -> int:
    """Returns the number of times that a stage runs its layers in a pass."""
    return self.micro_batches + self.count - 1

  @property
  def bubble(self) -> float:
    """Returns the fraction of a pass in which a stage is idle."""
    return 1 - self.micro_batches / self.ticks

  @property
  def repeated(self) -> float:
    """Returns a device's layer computation relative to its share.

    In bubbles a device also computes, with zeros.
    """
    in_stages = self.fraction * self.ticks / self.micro_batches
    return in_stages + 1 - self.fraction

  @property
  def gathers(self) -> float:
    """Returns how often a pass gathers the weights of all layers."""
    in_stages = self.fraction * self.ticks / self.count
    return in_stages + 1 - self.fraction

  def at_a_time(self, tokens: float) -> float:
    """Returns the number of tokens that a stage's layer processes at a time.

    Args:
      tokens: tokens of a pass per device, with rows also split over the stages.
    """
    return tokens * self.count / self.micro_batches

  def sent(self, tokens: float, width: int, itemsize: int) -> float:
    """Returns the bytes that a device receives from other stages in a pass.

    Args:
      tokens: tokens of a pass per device, with rows also split over the stages.
      width: D.
      itemsize: bytes per activation.
    """
    if self.count == 1:
      return 0.0
    each = self.at_a_time(tokens) * width * itemsize
    # An inner stage receives activations and input rows. The first and the last
    # stage receive one of the two.
    ways = 2 if self.count > 2 else 1
    return ways * self.ticks * each


def of(model: resolved.Model, rows: int) -> Stages:
  """Returns the stages of a model in a pass over `rows` rows.

  Args:
    model: the model.
    rows: number of rows of the pass, over all devices; in an update, that of a
      micro-batch.
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
  """Returns the bytes that a device receives from other stages in an update.

  These are activations, and their gradients in the backward pass.
  """
  data, micro = run.config.data, run.config.optimizer.micro_batches
  shards = rules.row_shards(run.mesh) * rules.length_shards(run.mesh)
  sent = of_update(run).sent(
    data.batch_size * data.length / shards / micro,
    run.student.config.embed_dim,
    jnp.dtype(run.student.module.dtype).itemsize,
  )
  return 2 * micro * sent
