"""Supplies batches with the targets of live teachers."""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp

from kd.config import teacher_sections
from kd.core import identity
from kd.core import types
from kd.input_pipeline import prepared as prepared_lib
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import layer_objective
from kd.losses import projected_distributions
from kd.losses import span_likelihoods
from kd.partitioning import rules
from kd.run import load_params
from kd.run import own_tokenizer
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import source
from kd.run import teacher_prefix
from kd.teachers import host_weights
from kd.teachers import live
from kd.train.feeds import abstract
from kd.train.feeds import feed


@source.SOURCES.register('live')
class Source(source.Source):
  """Teachers that score each batch during training."""

  def teacher_specs(self):
    return teacher_sections.of(self._config)

  def term_teacher(self, student, teachers):
    del student
    return teachers[0].model if teachers else None

  def describe_teacher(self):
    return None

  def teacher_names(self):
    return tuple(
      f'the teacher ({path}.init {spec.init})'
      for path, spec in self.teacher_specs().items()
    )

  def abstract_targets(self, run, model_config):
    del model_config
    if own_tokenizer.compares_spans(run):
      log_p = abstract.array(
        abstract.batch_shape(run), jnp.float32, rules.batch_sharding(run.mesh)
      )
      likelihoods = span_likelihoods.SpanLikelihoods(log_p)
      return distributions.Targets(likelihoods, None)
    dense = []
    for teacher, table in zip(
      run.teachers, abstract.unembeddings(run), strict=True
    ):
      model = teacher.model
      hidden = abstract.array(
        (*abstract.batch_shape(run), model.config.embed_dim),
        model.module.dtype,
        rules.hidden_sharding(run.mesh),
      )
      weight = abstract.array((), jnp.float32, rules.replicated(run.mesh))
      dense.append(dense_distributions.DenseTeacher(hidden, table, weight))
    if own_tokenizer.compares_positions(run):
      shared = own_tokenizer.vocabulary(run)
      projected = projected_distributions.ProjectedTeacher(dense[0], shared)
      return distributions.Targets(projected, None)
    mixture = dense_distributions.DenseMixture(
      tuple(dense), abstract.teacher_weights(run, run.mesh)
    )
    is_mapped = any(t.loss.remap_every for t in run.objective.layer_terms)
    return distributions.Targets(mixture, _abstract_taps(run), is_mapped)

  def open(self, run, prepared):
    return changes(run, prepared)

  def digest(self, opened):
    del opened
    prefix = self._config.teacher.prefix
    return identity.digest(['prefix', prefix]) if prefix else None

  def feed(self, run, rows, digest, opened, live_targets):
    names = self.teacher_names()
    return feed.Feed(run, rows, digest, names, live_targets, opened)


def changes(
  run: resolved.Run,
  prepared: Sequence[prepared_lib.Prepared],
  all_fit: bool = False,
) -> Callable[[types.Batch], types.Batch] | None:
  """Returns the function that prepares batches for the teachers, or None.

  It adds the teachers' own rows and their weights, if the config needs them.

  Args:
    run: the resolved config.
    prepared: the rows of each task of the mixture.
    all_fit: see teacher_prefix.rows.
  """
  add_rows = teacher_prefix.rows(run, prepared, all_fit)
  route = routed_teachers.router(run.config, prepared)
  if add_rows is None or route is None:
    return add_rows or route
  return lambda batch: route(add_rows(batch))


def load(run: resolved.Run) -> list[live.Teacher]:
  """Loads the parameters of a run's teachers onto their devices."""
  return _load(run, run.teacher_models)


def load_full_precision(run: resolved.Run) -> list[live.Teacher] | None:
  """Loads teachers in full precision, to measure the loss by quantization.

  Returns:
    The teachers; None if no quantized teacher is to be measured.
  """
  specs = source.of(run.config).teacher_specs().values()
  models = [
    load_params.core_of(model) if spec.quantize.measure else model
    for spec, model in zip(specs, run.teacher_models, strict=True)
  ]
  kept = zip(models, run.teacher_models, strict=True)
  if all(model.module == own.module for model, own in kept):
    return None
  return _load(run, models)


def _load(run, models):
  specs = source.of(run.config).teacher_specs()
  loaded = []
  every = zip(specs.items(), models, run.teachers, strict=True)
  for (path, spec), model, teacher in every:
    params = load_params.load(model, run.config.seed, f'{path}.init', None)
    if spec.memory == 'host':
      params = host_weights.to_host(model.module, params)
    loaded.append(live.Teacher(model.module, params, teacher.weight))
  return loaded


def targets_on(
  run: resolved.Run, teachers: Sequence[live.Teacher], mesh: jax.sharding.Mesh
) -> feed.LiveTargets:
  """Returns the function from a batch on `mesh` to the teachers' targets."""
  if own_tokenizer.compares_positions(run):
    (teacher,) = teachers
    return live.make_projected(teacher, own_tokenizer.vocabulary(run), mesh)
  if own_tokenizer.compares_spans(run):
    (teacher,), size = teachers, run.config.objective.chunk_tokens
    return live.make_spans(teacher, size, mesh)
  objective = run.objective
  return live.make(
    teachers,
    run.student.config.vocab_size,
    objective.teacher_taps,
    mesh,
    functools.partial(layer_objective.mapped, objective.layer_terms),
  )


def _abstract_taps(run):
  """Returns the first teacher's abstract layer outputs."""
  spec = run.objective.teacher_taps
  if spec == live.NO_TAPS:
    return types.Taps(None, None, None, None)
  model, params = run.teacher, abstract.teacher_params(run)[0]
  terms = run.objective.layer_terms
  score = live.scorer(
    model.module, spec, mapped=functools.partial(layer_objective.mapped, terms)
  )
  _, maps = jax.eval_shape(
    lambda: layer_objective.init(terms, jax.random.key(0))
  )
  batch = abstract.batch(run, model.mesh)
  _, shown = jax.eval_shape(score, params, batch, maps or None)
  sharding = rules.taps_sharding(run.mesh)
  return jax.tree.map(
    lambda x: abstract.array(x.shape, x.dtype, sharding), shown
  )
