"""Computes the floating point operations of a vision tower by formula.

For an image of P patches, a tower of n layers of width E with MLPs of width M,
and a projector to width D at T soft tokens:

  patches     2 P 3 p p E
  weights     2 P n (4 E E + 2 E M)
  attention   4 P P n E               (scores, and sums of values)
  projector   2 T E D

The backward pass takes twice as many, for the gradients of weights and of
inputs. A frozen tower has no backward pass.
"""

import dataclasses

import jax

from kd.images import features
from kd.models import model_config
from kd.models.vision import config as vision_config
from kd.run import resolved

# Parts of a step's operations.
PARTS = ('teacher_tower', 'tower_forward', 'tower_backward')


@dataclasses.dataclass(frozen=True)
class Tower:
  """The towers' operations in a step, on all chips.

  Attributes:
    teachers: operations of the teachers' forward passes.
    forward: operations of the student's forward pass.
    backward: operations of its backward pass.
    saved_if_frozen: operations of the backward pass saved by a frozen tower.
    saved_if_kept: operations of the forward passes saved by
      `data.images.features` if the models share a frozen tower.
  """

  teachers: int
  forward: int
  backward: int
  saved_if_frozen: int
  saved_if_kept: int

  @property
  def by_part(self) -> dict[str, int]:
    """Returns the operations by part, like flops.step."""
    numbers = (self.teachers, self.forward, self.backward)
    return dict(zip(PARTS, numbers, strict=True))


def tower(config: vision_config.VisionConfig) -> int:
  """Returns the tower's operations per image, without the projector."""
  weights = config.num_layers * config.layer_matrices
  embedding = config.patch_values * config.embed_dim
  attention = config.num_layers * config.patches * config.embed_dim
  return 2 * config.patches * (weights + embedding + 2 * attention)


def projector(config: vision_config.VisionConfig, text_dim: int) -> int:
  """Returns the operations per image of a projector to width `text_dim`."""
  return 2 * config.soft_tokens * config.embed_dim * text_dim


def keeps_features(run: resolved.Run) -> bool:
  """Returns whether stored tower outputs are used, so that no tower runs."""
  return run.config.data.images.features != features.NONE


def forward(run: resolved.Run, config: model_config.Config) -> int:
  """Returns the operations per image of a model's tower and projector."""
  vision = config.vision
  of_tower = 0 if keeps_features(run) else tower(vision)
  return of_tower + projector(vision, config.embed_dim)


def step(run: resolved.Run) -> Tower | None:
  """Returns the towers' operations per training step; None without images."""
  form = run.image_form
  if form is None:
    return None
  images = run.config.data.batch_size * form.per_row
  teachers = run.teacher_models if run.objective.needs_teacher else ()
  kept = keeps_features(run)
  with_tower = [m.config for m in teachers if m.config.vision]
  of_teachers = images * sum(forward(run, config) for config in with_tower)
  towers = 0 if kept else sum(tower(config.vision) for config in with_tower)
  student = run.student.config
  if not student.vision:
    return Tower(of_teachers, 0, 0, 0, 0)
  # A shared tower runs only in the teacher's pass.
  shares = run.objective.shares_tower and run.objective.needs_teacher
  runs = not kept and not shares
  of_tower = tower(student.vision) if runs else 0
  of_projector = projector(student.vision, student.embed_dim)
  trained, _ = run.optimizer.groups.split(
    (run.student.module.abstract_params(), {})
  )
  saved = 0
  if jax.tree.leaves(trained[0]['vision']['tower']):
    saved = 2 * images * of_tower
  return Tower(
    of_teachers,
    images * (of_tower + of_projector),
    2 * images * of_projector + saved,
    saved,
    images * (of_tower + towers),
  )
