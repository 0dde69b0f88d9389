"""Describes a run to the user, in check mode and before training."""

import jax

from kd.core import paths
from kd.core import schedules
from kd.input_pipeline import hf_tokenizer
from kd.losses import layer_objective
from kd.models import families
from kd.quantization import running_ranges
from kd.run import model_checks
from kd.run import outputs
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import source as source_lib
from kd.train import best


def _term(key, spec):
  """Returns a line part with a term's weight, name and temperature."""
  name = spec['name']
  if 'temperature' in spec:
    name += f', temperature {schedules.text(spec["temperature"])}'
  return f'{schedules.text(spec["weight"])} x {key} ({name})'


def describe_run(run: resolved.Run, workdir: str) -> str:
  """Returns lines on a run's models, tokens per step, and files."""
  config = run.config
  lines = []
  several = len(run.teachers) > 1
  teachers = [
    (f'teacher ({t.weight:.0%})' if several else 'teacher', t.model)
    for t in run.teachers
  ]
  source = source_lib.of(config)
  if source.describe_teacher():
    lines.append(source.describe_teacher())
  for name, model in (*teachers, ('student', run.student)):
    count = model.config.parameter_count
    sizes = model.config
    lines.append(
      f'{name}: {count:,} parameters, {sizes.num_layers} layers, width '
      f'{sizes.embed_dim}, from {model.init}, computed in '
      f'{model.module.dtype}'
    )
  lines += routed_teachers.lines(config)
  lines += _frozen_line(run)
  tokenizer_files = run.tokenizer.files()
  tokens = config.data.batch_size * config.data.length
  mesh = ' x '.join(f'{axis} {n}' for axis, n in run.mesh.shape.items())
  lines += [
    f'tokenizer: {run.tokenizer.vocab_size:,} ids, digest '
    f'{run.tokenizer.digest[:16]}',
    f'step: {config.data.batch_size} rows x {config.data.length} = '
    f'{tokens:,} tokens; {config.steps:,} steps, '
    f'{tokens * config.steps:,} tokens in all',
    f'mesh: {mesh} over {run.mesh.size} devices',
    'losses: ' + ', '.join(_term(*item) for item in config.losses.items()),
    f'positions: {config.objective.positions.rule}, '
    f'{schedules.text(config.objective.positions.fraction)} of the targets',
    f'rows: prepared once in {paths.expand_sparse(config.data.folder)}',
    f'workdir: {workdir}: {", ".join([*outputs.FILES, *tokenizer_files])}',
  ]
  if config.ema.decay:
    lines.append(
      f'average of parameters: decay {config.ema.decay:g}; '
      f'evaluated: {config.evaluation.params}'
    )
  if config.evaluation.sets:
    lines.append(f'best checkpoint: {best.text(config)}')
  lines += source.describe()
  if config.evaluation.baseline:
    lines.append(f'baseline: {workdir}/{outputs.BASELINE}')
  return '\n'.join([*lines, *_warnings(run)])


def _frozen_line(run):
  """Returns a line with the number of trained parameters, if not all are."""
  projections, _ = jax.eval_shape(
    lambda: layer_objective.init(run.objective.layer_terms, jax.random.key(0))
  )
  _, params = running_ranges.split(run.student.module.abstract_params())
  every = params, projections
  trained, total = run.optimizer.groups.count(every)
  if trained == total:
    return []
  return [f'trained: {trained:,} of {total:,} parameters']


def _warnings(run):
  """Returns warnings about settings that are legal but probably mistakes."""
  lines = []
  for path, model in model_checks.models(run).items():
    source = model.source if model.keep_layers else None
    problem = families.of(model.config).export_warning(model.config, source)
    if problem:
      lines.append(f'warning: {path}: {problem}')
  reason = hf_tokenizer.problem(run.tokenizer)
  if reason:
    lines.append(f'warning: the tokenizer cannot be exported: {reason}')
  return lines + model_checks.template_warnings(run, model_checks.models(run))
