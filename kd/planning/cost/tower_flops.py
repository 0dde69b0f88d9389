"""Computes the floating point operations of a vision tower by formula.

For an image of P patches, a tower of n layers of width E with MLPs of width M,
and a projector to width D at T soft tokens:

  patches     2 P 3 p p E
  weights     2 P n (4 E E + 2 E M)
  attention   4 P P n E               (scores, and sums of values)
  projector   2 T E D

The backward pass takes twice as many, for the gradients of weights and of
inputs; nothing where the tower is frozen.
"""

import dataclasses

import jax

from kd.models import model_config
from kd.models.vision import config as vision_config
from kd.run import resolved


@dataclasses.dataclass(frozen=True)
class Tower:
  """The towers' operations in a step, on all chips.

  Attributes:
    teachers: of the teachers' forward passes.
    forward: of the student's forward pass.
    backward: of its backward pass.
    saved_if_frozen: how many of the backward pass a frozen tower saves.
  """

  teachers: int
  forward: int
  backward: int
  saved_if_frozen: int

  @property
  def by_part(self) -> dict[str, int]:
    """Returns the operations by part, as flops.step does."""
    return {
      'teacher_tower': self.teachers,
      'tower_forward': self.forward,
      'tower_backward': self.backward,
    }


def tower(config: vision_config.VisionConfig) -> int:
  """Returns the operations of an image in the tower, without the projector."""
  weights = config.num_layers * config.layer_matrices
  embedding = config.patch_values * config.embed_dim
  attention = config.num_layers * config.patches * config.embed_dim
  return 2 * config.patches * (weights + embedding + 2 * attention)


def projector(config: vision_config.VisionConfig, text_dim: int) -> int:
  """Returns the operations of an image in a projector to width `text_dim`."""
  return 2 * config.soft_tokens * config.embed_dim * text_dim


def forward(config: model_config.Config) -> int:
  """Returns the operations of an image in a model's tower and projector."""
  vision = config.vision
  return tower(vision) + projector(vision, config.embed_dim)


def step(run: resolved.Run) -> Tower | None:
  """Returns the operations of a training step; None if it has no images."""
  form = run.image_form
  if form is None:
    return None
  images = run.config.data.batch_size * form.per_row
  teachers = run.teacher_models if run.objective.needs_teacher else ()
  of_teachers = sum(
    forward(model.config) for model in teachers if model.config.vision
  )
  student = run.student.config
  if not student.vision:
    return Tower(images * of_teachers, 0, 0, 0)
  # A shared tower runs in the teacher's pass alone.
  of_tower = 0 if run.objective.shares_tower else tower(student.vision)
  whole = of_tower + projector(student.vision, student.embed_dim)
  trained, _ = run.optimizer.groups.split(
    (run.student.module.abstract_params(), {})
  )
  saved = 0
  if jax.tree.leaves(trained[0]['vision']['tower']):
    saved = 2 * images * of_tower
  backward = 2 * images * (whole - of_tower) + saved
  return Tower(images * of_teachers, images * whole, backward, saved)
