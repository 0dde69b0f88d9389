"""Computes what a training step does, for the speed that a run achieves."""

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
  """Returns the work of a step by formula, and the peak of its devices.

  Args:
    run: the resolved run.
    objective: the student's, or the baseline's, which has no teacher.
    target_fraction: of the positions of a batch, those that are targets.
    has_images: whether rows have images; no tower runs without them.
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
  """Returns operations a second of the run's chips; None if one is unknown."""
  models = (
    run.student,
    *(run.teacher_models if run.objective.needs_teacher else ()),
  )
  devices = {d for model in models for d in model.mesh.devices.flat}
  slices = [chips.of_devices(d.device_kind, 1) for d in devices]
  if not all(slices):
    return None
  return sum(one.chip.flops for one in slices)
