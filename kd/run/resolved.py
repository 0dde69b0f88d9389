"""The types that a config resolves to: Model, Teacher and Run."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from kd.core import errors
from kd.core import types
from kd.images import form as form_lib
from kd.input_pipeline import tokenizers
from kd.losses import objective as objective_lib
from kd.models import family
from kd.optimizers import optimizers
from kd.pruning import sizes


@dataclasses.dataclass(frozen=True)
class Model:
  """A student or a teacher, without its parameters.

  Attributes:
    module: the linen module.
    init: source of the parameters.
    source: sizes of the model that `init` names.
    keep_layers: layers of that model to keep; () for all.
    shardings: sharding of each parameter.
    param_dtype: data type of the parameters in memory.
    prune: sizes to keep within these layers, by importance; None for all.
    dither: noise added to the initial values of rounded matrices, in steps of
      their codes; see rounding_ties.dithered.
    vision_init: source of the vision tower, as in the field of that name, or
      'teacher'; '' for `init`.
  """

  module: family.Model
  init: str
  source: family.Config
  keep_layers: tuple[int, ...]
  shardings: types.PyTree
  param_dtype: str
  prune: sizes.Request | None = None
  dither: float = 0.0
  vision_init: str = ''
  keep_tower_layers: tuple[int, ...] = ()

  @property
  def config(self) -> family.Config:
    return self.module.config

  @property
  def mesh(self) -> jax.sharding.Mesh:
    """Returns the model's mesh."""
    return jax.tree.leaves(self.shardings)[0].mesh

  def identity(self, weights: str) -> dict[str, Any]:
    """Returns the values that determine the model's outputs, as JSON.

    Args:
      weights: digest of the parameters, from param_digest.of.
    """
    return {
      'weights': weights,
      'dtype': str(jnp.dtype(self.module.dtype)),
      **self.config.to_dict(),
      **self.module.representation,
    }


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A teacher of a mixture.

  Attributes:
    model: the teacher.
    weight: weight in the mixture; the weights of all teachers sum to 1.
  """

  model: Model
  weight: float


@dataclasses.dataclass(frozen=True)
class Run:
  """A validated config and the objects built from it.

  Attributes:
    config: the frozen config.
    mesh: mesh of the student, its batches and its targets.
    tokenizer: tokenizer of student and teacher; None for plans, which need only
      shapes.
    student: the model to train.
    teachers: the teachers, starting with the config's `teacher`; () without a
      live teacher.
    objective: the training objective; without terms in modes that do not train.
    optimizer: the optimizer; None in modes that do not train.
    learning_rate: learning rate by step; None likewise.
    sampler: the student on devices that only sample; None without such devices.
  """

  config: ml_collections.FrozenConfigDict
  mesh: jax.sharding.Mesh
  tokenizer: tokenizers.Tokenizer | None
  student: Model
  teachers: tuple[Teacher, ...]
  objective: objective_lib.Objective
  optimizer: optimizers.Optimizer | None
  learning_rate: Callable[[int], float] | None
  sampler: Model | None = None

  @property
  def teacher(self) -> Model | None:
    """Returns the first teacher's model, or None."""
    return self.teachers[0].model if self.teachers else None

  @property
  def teacher_models(self) -> tuple[Model, ...]:
    return tuple(teacher.model for teacher in self.teachers)

  def image_form_of(self, config: family.Config) -> form_lib.Form | None:
    """Returns `image_form` for a model; None if it is text-only."""
    return self.image_form if config.vision else None

  @property
  def image_form(self) -> form_lib.Form | None:
    """Returns the form of images in rows; None if all models are text-only.

    Raises:
      ConfigError: the models need images of different forms.
    """
    towers = [
      model.config.vision for model in (self.student, *self.teacher_models)
    ]
    forms = {(x.image_size, x.soft_tokens) for x in towers if x}
    if not forms:
      return None
    # A plan may have no tokenizer, since it reads no ids. Only rows with images
    # need a tokenizer with these tokens.
    ids = self.tokenizer and self.tokenizer.image_ids
    if len(forms) > 1:
      listed = ' and of '.join(
        f'{s} px in {t} tokens' for s, t in sorted(forms)
      )
      raise errors.ConfigError(
        'student.vision',
        f'the models read images of {listed}',
        legal='models with equal image sizes and numbers of soft tokens',
      )
    images = self.config.data.images
    ((size, tokens),) = forms
    return form_lib.Form(
      size,
      tokens,
      ids[1] if ids else -1,
      images.per_row,
      images.pan_and_scan,
    )
