"""Supports a teacher with its own tokenizer in a run."""

import functools

import ml_collections

from kd.core import errors
from kd.input_pipeline import prefixes as prefixes_lib
from kd.input_pipeline import retokenizing
from kd.input_pipeline import shared_vocabularies
from kd.input_pipeline import teacher_rows
from kd.input_pipeline import tokenizers
from kd.losses import objective as objective_lib
from kd.losses import projected_distributions
from kd.partitioning import rules
from kd.run import resolved

Config = ml_collections.ConfigDict | ml_collections.FrozenConfigDict

OWN = 'own'  # A value of teacher.tokenizer.
_SPANS, _ULD = 'chunk_likelihood', 'uld'


def is_used(config: Config) -> bool:
  """Returns whether the run's teacher has its own tokenizer."""
  return config.teacher.tokenizer == OWN


@functools.lru_cache(maxsize=1)
def load(init: str) -> tokenizers.Tokenizer:
  """Loads the tokenizer that comes with the teacher's weights.

  Args:
    init: source of the weights.

  Raises:
    ConfigError: the weights come without a tokenizer.
  """
  found = tokenizers.for_source(init, 'teacher.init')
  if found is None:
    raise errors.ConfigError(
      'teacher.init',
      f"found {init!r}, and teacher.tokenizer is 'own'",
      legal='hf:DIR, gguf:FILE, workdir:DIR',
    )
  return found


def length(config: Config) -> int:
  """Returns the number of positions of a teacher row."""
  return config.teacher.length or config.data.length


def check(config: Config, objective: objective_lib.Objective) -> None:
  """Raises ConfigError for terms that the teacher does not support.

  Args:
    config: the run's config.
    objective: the training objective.

  Raises:
    ConfigError: a term is unsupported; names the first one.
  """
  if not is_used(config):
    for term in objective.terms:
      name = config.losses[term.key].name
      if name in (_SPANS, _ULD):
        raise errors.ConfigError(
          f'losses.{term.key}.name',
          f"found {name!r}, and teacher.tokenizer is 'shared'",
          legal="a divergence, or teacher.tokenizer 'own'",
        )
    return
  if objective.layer_terms:
    key = objective.layer_terms[0].key
    raise errors.ConfigError(
      f'losses.{key}.name',
      f'found {config.losses[key].name!r}, which compares layers, and the '
      'teacher has another tokenization (teacher.tokenizer)',
      legal=f"{_SPANS!r}, a divergence, {_ULD!r}, 'cross_entropy'",
    )
  by_position = [t.key for t in objective.logits_terms if t.loss.needs_teacher]
  if objective.span_terms and by_position:
    key = by_position[0]
    raise errors.ConfigError(
      f'losses.{key}.name',
      f'found {config.losses[key].name!r}, which compares positions, and '
      f'{_SPANS!r}, which compares chunks',
      legal='terms of only one of these kinds',
    )
  if not objective.logits_terms and objective.selection.rule != 'all':
    raise errors.ConfigError(
      'objective.positions.rule',
      f'found {objective.selection.rule!r}, and no term reads logits',
      legal="'all'",
    )
  if objective.selection.needs_teacher:
    raise errors.ConfigError(
      'objective.positions.rule',
      f'found {objective.selection.rule!r}, and the teacher has another '
      'tokenization (teacher.tokenizer)',
      legal="'all', 'random', 'student_entropy'",
    )


def check_rows(run: resolved.Run) -> None:
  """Raises ConfigError if the teacher's rows do not fit it or its devices.

  Raises:
    ConfigError: teacher.length is illegal, or contradicts another field.
  """
  positions, teacher = length(run.config), run.teacher
  if positions > teacher.config.context:
    raise errors.ConfigError(
      'teacher.length',
      f'found {positions} (0: data.length), longer than the context of the '
      'teacher',
      legal=f'up to {teacher.config.context}',
    )
  for mesh in (run.mesh, teacher.mesh):
    shards = rules.length_shards(mesh)
    if positions % shards:
      raise errors.ConfigError(
        'teacher.length',
        f'found {positions}, which {shards} devices do not divide',
        legal=f'a multiple of {shards}',
      )
  if run.student.config.vision or teacher.config.vision:
    field = 'tokenizer' if is_used(run.config) else 'prefix'
    raise errors.ConfigError(
      f'teacher.{field}',
      f'found {run.config.teacher[field]!r}, and a model of the run reads '
      'images',
      legal="its default, or vision 'none' for both models",
    )


def compares_spans(run: resolved.Run) -> bool:
  """Returns whether only likelihoods of aligned spans are compared."""
  return is_used(run.config) and bool(run.objective.span_terms)


def compares_positions(run: resolved.Run) -> bool:
  """Returns whether distributions are compared over a shared vocabulary."""
  return is_used(run.config) and not run.objective.span_terms


def vocabulary(
  run: resolved.Run,
) -> projected_distributions.SharedVocabulary:
  """Returns the shared vocabulary of both tokenizers.

  The result is the same object for the same run. Plans, which have no
  tokenizer, assume equal ones.
  """
  if run.tokenizer is None:
    models = run.student, run.teacher
    return _same(min(model.config.vocab_size for model in models))
  return _matched(*_sides(run))


def _sides(run):
  """Returns the tokenizer and template of the student, then of the teacher."""
  config = run.config
  own = load(config.teacher.init)
  template = config.teacher.template or config.data.template
  return run.tokenizer, config.data.template, own, template


_same = functools.lru_cache(maxsize=4)(projected_distributions.same)


@functools.lru_cache(maxsize=4)
def _matched(student, template, teacher, teacher_template):
  convert = retokenizing.Retokenizer(
    student, template, teacher, teacher_template
  )
  return shared_vocabularies.match(student, teacher, convert.roles)


def rows(
  run: resolved.Run, prefixes: prefixes_lib.Prefixes | None = None
) -> teacher_rows.TeacherRows:
  """Returns the object that adds the teacher's tokens to batches.

  Args:
    run: the resolved config.
    prefixes: prefixes of the teacher's examples.

  Raises:
    ConfigError: the templates of both models do not match.
  """
  sides = _sides(run)
  _, _, own, _ = sides
  return teacher_rows.TeacherRows(
    *(retokenizing.Retokenizer(*sides), length(run.config), own.pad_id),
    *(prefixes, compares_positions(run)),
  )
