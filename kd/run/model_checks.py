"""Checks a config against its models, chat templates and search problems."""

from collections.abc import Mapping, Sequence
import contextlib

import jax
import ml_collections

from kd.checkpoints import weights
from kd.config import base
from kd.core import errors
from kd.images import features
from kd.input_pipeline import chat_templates
from kd.input_pipeline import prepared as prepared_lib
from kd.losses import objective as objective_lib
from kd.losses import terms
from kd.models import family
from kd.reasoning.trees import problems
from kd.run import model_sizes
from kd.run import resolved
from kd.run import source

Config = ml_collections.ConfigDict


def check_length(config: Config, path: str, sizes: family.Config) -> None:
  """Raises ConfigError if rows are longer than a model's context.

  Args:
    config: the run's config.
    path: config path of the model, for the message.
    sizes: config of the model.

  Raises:
    ConfigError: data.length exceeds the context.
  """
  if config.data.length > sizes.context:
    raise errors.ConfigError(
      'data.length',
      f'found {config.data.length}, longer than the context of the {path}',
      legal=f'up to {sizes.context}',
    )


def check_search(search: Config) -> None:
  """Raises ConfigError if a search uses more than its problem supports.

  Raises:
    ConfigError: a field is unsupported; names the first one.
  """
  problem = problems.SOURCES[search.problem].problem
  if search.shots > problem.max_examples:
    raise errors.ConfigError(
      'search.shots',
      f'found {search.shots}',
      legal=f'0 to {problem.max_examples}',
    )
  enumerated = search.proposals == 'enumerated'
  if enumerated and not problem.enumerable:
    raise errors.ConfigError(
      'search.proposals',
      f"found 'enumerated', and {search.problem} has infinitely many thoughts",
      legal="'sampled'",
    )
  if enumerated and search.evaluator == 'likelihood':
    raise errors.ConfigError(
      'search.evaluator',
      "found 'likelihood', and enumerated thoughts have none",
      legal="'exact', 'value' or 'vote'",
    )


def models(run: resolved.Run) -> dict[str, resolved.Model]:
  """Returns the run's models by their paths in the config."""
  models = (run.student, *run.teacher_models)
  specs = source.of(run.config).teacher_specs() if run.teachers else ()
  return dict(zip(('student', *specs), models, strict=True))


def check_images(
  run: resolved.Run, prepared: Sequence[prepared_lib.Prepared]
) -> None:
  """Raises ConfigError if rows have images and a model accepts none."""
  with_images = [p.task for p in prepared if any(p.images)]
  for path, model in models(run).items():
    if with_images and model.config.vision is None:
      raise errors.ConfigError(
        f'{path}.vision',
        f"found 'none', and rows of {with_images[0]} have images",
        legal="'own' for all models of the run, or rows of text",
      )


def check_vision(
  config: Config, objective: objective_lib.Objective, student: resolved.Model
) -> None:
  """Raises ConfigError if an objective needs vision that the student lacks.

  Args:
    config: the run's config.
    objective: the training objective.
    student: the student.

  Raises:
    ConfigError: a field does not fit the student.
  """
  weights = config.objective.modalities.to_dict()
  if weights != base.modalities().to_dict() and not student.config.vision:
    changed = [k for k, v in base.modalities().items() if weights[k] != v]
    raise errors.ConfigError(
      f'objective.modalities.{changed[0]}',
      "is set, and the student reads only text (student.vision='none')",
      legal='the defaults, or a student with a vision tower',
    )
  kept = config.data.images.features != features.NONE
  for term in objective.terms if objective.shares_tower or kept else ():
    if isinstance(term.loss, terms.LayerLoss) and term.loss.student_tower:
      raise errors.ConfigError(
        f'losses.{term.key}.states',
        "found 'tower', and the student's tower does not run in training",
        legal="'soft_tokens' or layers of the text model",
      )


def check_features(run: resolved.Run) -> None:
  """Raises ConfigError unless one frozen tower reads all training images.

  Args:
    run: the resolved config.

  Raises:
    ConfigError: data.images.features is set without such a tower.
  """
  kind = run.config.data.images.features
  if kind == features.NONE:
    return
  student, teachers = run.student, run.teacher_models
  trained, _ = run.optimizer.groups.split(
    (student.module.abstract_params(), {})
  )
  own = trained[0].get('vision', {}).get('tower')
  shares = student.vision_init == model_sizes.TEACHERS_VISION
  init = (student.vision_init or student.init).partition(':')[0]
  faults = {
    'no student with a vision tower': student.config.vision is None,
    'a vision tower that is trained': bool(jax.tree.leaves(own)),
    'several live towers': len(teachers) > 1 or bool(teachers) and not shares,
    f'a tower of {init!r}': not teachers and init not in weights.PREFIXES,
    'answers of the student': run.config.teacher.source == 'on_policy',
  }
  for fault, is_there in faults.items():
    if is_there:
      raise errors.ConfigError(
        'data.images.features',
        f'found {kind!r}, and {fault}',
        legal=f'{features.NONE!r}; or one frozen tower: '
        "student.vision='teacher' of one live teacher; or without one, weights "
        'of hf: or gguf: and a group of optimizer.groups that freezes '
        "'vision.tower'",
      )


def template_warnings(
  run: resolved.Run, models_: Mapping[str, resolved.Model]
) -> list[str]:
  """Returns a line for each model that was trained with another template.

  Args:
    run: the resolved config.
    models_: some models of the run by their paths in the config.
  """
  template, warnings = run.config.data.template, {}
  for path, model in models_.items():
    # An unreadable file is not refused here.
    with contextlib.suppress(errors.ConfigError):
      warnings[path] = chat_templates.warning(template, model.init)
  return [f'warning: {p}.init: {text}' for p, text in warnings.items() if text]
