"""Describes a run in lines for the user, for check mode and before training."""

from collections.abc import Mapping
import contextlib

from kd.core import errors
from kd.core import paths
from kd.core import schedules
from kd.input_pipeline import chat_templates
from kd.input_pipeline import hf_tokenizer
from kd.models import families
from kd.train import best
from kd.train import outputs
from kd.train import resolved
from kd.train.feeds import feed


def _term(key, spec):
  """Returns a term with its weight and temperature."""
  name = spec['name']
  if 'temperature' in spec:
    name += f', temperature {schedules.text(spec["temperature"])}'
  return f'{schedules.text(spec["weight"])} x {key} ({name})'


def describe_run(run: resolved.Run, workdir: str) -> str:
  """Returns what a config means: models, tokens per step, files."""
  config = run.config
  lines = []
  several = len(run.teachers) > 1
  teachers = [
    (f'teacher ({t.weight:.0%})' if several else 'teacher', t.model)
    for t in run.teachers
  ]
  source = feed.source(config)
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
    f'rows: prepared once in {paths.expand(config.data.folder)}',
    f'workdir: {workdir}: {", ".join([*outputs.FILES, *tokenizer_files])}',
  ]
  if config.evaluation.sets:
    lines.append(f'best checkpoint: {best.text(config)}')
  lines += source.describe()
  if config.evaluation.baseline:
    lines.append(f'baseline: {workdir}/{outputs.BASELINE}')
  return '\n'.join([*lines, *_warnings(run)])


def models(run: resolved.Run) -> dict[str, resolved.Model]:
  """Returns the run's models by their paths in the config."""
  models = (run.student, *run.teacher_models)
  specs = feed.source(run.config).teacher_specs() if run.teachers else ()
  return dict(zip(('student', *specs), models, strict=True))


def template_warnings(
  run: resolved.Run, models_: Mapping[str, resolved.Model]
) -> list[str]:
  """Returns a line for each model that was trained with another template.

  Args:
    run: the resolved config.
    models_: some of its models, by their paths in the config.
  """
  template, problems = run.config.data.template, {}
  for path, model in models_.items():
    # A file that cannot be read is no reason to refuse a run here.
    with contextlib.suppress(errors.ConfigError):
      problems[path] = chat_templates.warning(template, model.init)
  return [f'warning: {p}.init: {text}' for p, text in problems.items() if text]


def _warnings(run):
  """Returns lines on what is legal but probably not meant."""
  lines = []
  for path, model in models(run).items():
    source = model.source if model.keep_layers else None
    problem = families.of(model.config).export_warning(model.config, source)
    if problem:
      lines.append(f'warning: {path}: {problem}')
  reason = hf_tokenizer.problem(run.tokenizer)
  if reason:
    lines.append(f'warning: the tokenizer cannot be exported: {reason}')
  return lines + template_warnings(run, models(run))
