"""Computes the work of a training step, from which runs report their MFU."""

import dataclasses

from kd.losses import objective as objective_lib
from kd.planning.cost import chips
from kd.planning.cost import costs
from kd.planning.cost import flops
from kd.planning.cost import tower_flops
from kd.run import resolved
from kd.train import train_metrics


def of(
  run: resolved.Run,
  objective: objective_lib.Objective,
  target_fraction: float,
  has_images: bool,
) -> train_metrics.StepWork:
  """Returns the work of a step by formula, and its devices' peak FLOP/s.

  Args:
    run: the resolved run.
    objective: objective of the student or of the baseline, without a teacher.
    target_fraction: fraction of a batch's positions that are targets.
    has_images: whether rows have images; otherwise no tower runs.
  """
  run = dataclasses.replace(run, objective=objective)
  data, steps = run.config.data, run.config.steps
  kept = float(objective.selection.fraction(steps // 2))
  needed = costs.model_flops(run, target_fraction * kept)
  needed.pop('recomputed')
  if not has_images:
    for part in tower_flops.PARTS:
      needed.pop(part, None)
  needed['student_backward'] -= flops.repeated_scores(
    run.student.config, data.batch_size, data.length, run.student.module.kernel
  )
  return train_metrics.StepWork(
    tokens=data.batch_size * data.length,
    flops=sum(needed.values()),
    peak_flops=_peak(run),
  )


def _peak(run):
  """Returns the chips' peak operations per second; None if one is unknown."""
  models = (
    run.student,
    *(run.teacher_models if run.objective.needs_teacher else ()),
  )
  devices = {d for model in models for d in model.mesh.devices.flat}
  slices = [chips.of_devices(d.device_kind, 1) for d in devices]
  if not all(slices):
    return None
  return sum(one.chip.flops for one in slices)
