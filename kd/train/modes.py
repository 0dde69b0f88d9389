"""What --mode means: one function each, of (config, workdir)."""

from collections.abc import Callable
import functools
import json

import jax
import ml_collections

from kd.checkpoints import weights
from kd.config import base
from kd.core import config as config_lib
from kd.core import errors
from kd.core import paths
from kd.input_pipeline import chat_templates
from kd.input_pipeline import hf_tokenizer
from kd.models import gemma3_config
from kd.partitioning import processes
from kd.train import best
from kd.train import cache as cache_lib
from kd.train import chat as chat_lib
from kd.train import console as console_lib
from kd.train import distill
from kd.train import lock
from kd.train import measure
from kd.train import outputs
from kd.train import reason as reason_lib
from kd.train import resolve
from kd.train import resolve_student
from kd.train import resolved
from kd.train import samplers
from kd.train import search as search_lib
from kd.train import search_fields
from kd.train import workdirs
from kd.train.feeds import feed


def say(line: str) -> None:
  """A line for the user, in a log or on a terminal, from one process."""
  if jax.process_index() == 0:
    print(line, flush=True)


def _devices(config):
  """The devices of all processes, once all are there with one config."""
  config = base.checked(config)
  processes.start(config.processes)
  found = json.loads(config_lib.to_json(config))
  first = processes.from_first(lambda: found)
  for path, there, here in config_lib.differences(first, found):
    if not path.startswith('processes.'):
      raise errors.ConfigError(
        path,
        f'process {jax.process_index()} has {here!r}, process 0 has {there!r}',
        legal='one config for all processes',
      )
  return jax.devices()


def _open(config, workdir, with_teachers=False, warn=say) -> resolved.Run:
  """The run of a mode that trains nothing.

  Args:
    config: as the flag gave it.
    workdir: may hold a run.
    with_teachers: whether the mode needs them.
    warn: prints a warning.
  """
  devices = _devices(config)
  run = resolve_student.resolve_student(config, devices, workdir, with_teachers)
  workdirs.check(run.config, workdir, workdirs.NOT_TRAINED)
  workdirs.check_tokenizer(run, workdir)
  for line in _template_warnings(run):
    warn(line)
  return run


def _open_alone(config, workdir, mode, with_teachers=False, warn=say):
  """As _open, for a mode that one process does."""
  run = _open(config, workdir, with_teachers, warn)
  _check_alone(mode)
  return run


def _check_alone(mode):
  if jax.process_count() > 1:
    raise errors.ConfigError(
      '--mode',
      f'found {mode!r}, in {jax.process_count()} processes',
      legal='one process, with JAX_PLATFORMS=cpu on a slice of several workers',
    )


def _number(value):
  """A number, or what its schedule is called."""
  return f'{value:g}' if isinstance(value, int | float) else value['name']


def _term(key, spec):
  """A term with its weight and temperature."""
  name = spec['name']
  if 'temperature' in spec:
    name += f', temperature {_number(spec["temperature"])}'
  return f'{_number(spec["weight"])} x {key} ({name})'


def describe(run: resolved.Run, workdir: str) -> str:
  """What the config means: models, tokens a step, files."""
  config = run.config
  lines = []
  several = len(run.teachers) > 1
  teachers = [
    (f'teacher ({t.weight:.0%})' if several else 'teacher', t.model)
    for t in run.teachers
  ]
  source = feed.source(config)
  if source.teacher_line():
    lines.append(source.teacher_line())
  for name, model in (*teachers, ('student', run.student)):
    count = gemma3_config.parameter_count(model.config)
    sizes = model.config
    lines.append(
      f'{name}: {count:,} parameters, {sizes.num_layers} layers, width '
      f'{sizes.embed_dim}, from {model.init}, computed in '
      f'{model.module.dtype}'
    )
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
    f'positions: {config.objective.positions.rule}, share '
    f'{_number(config.objective.positions.share)} of the targets',
    f'rows: prepared once in {paths.expand(config.data.folder)}',
    f'workdir: {workdir}: {", ".join(outputs.FILES)}',
  ]
  if config.evaluation.sets:
    lines.append(f'best checkpoint: {best.choose(config)}')
  lines += source.lines()
  if config.evaluation.baseline:
    lines.append(f'baseline: {workdir}/{outputs.BASELINE}')
  return '\n'.join([*lines, *_warnings(run)])


def _models(run):
  """Returns the run's models by their paths in the config."""
  models = (run.student, *run.teacher_models)
  specs = feed.source(run.config).teacher_specs() if run.teachers else ()
  return dict(zip(('student', *specs), models, strict=True))


def _template_warnings(run):
  """Returns a line for each model that was trained with another template."""
  template = run.config.data.template
  problems = {
    path: chat_templates.warning(template, model.init)
    for path, model in _models(run).items()
  }
  return [f'warning: {p}.init: {text}' for p, text in problems.items() if text]


def _warnings(run):
  """Returns lines on what is legal but probably not meant."""
  lines = []
  for path, model in _models(run).items():
    source = model.source if model.keep_layers else None
    problem = weights.pattern_warning(model.config, source)
    if problem:
      lines.append(f'warning: {path}: {problem}')
  reason = hf_tokenizer.problem(run.tokenizer)
  if reason:
    lines.append(f'warning: the tokenizer cannot be exported: {reason}')
  return lines + _template_warnings(run)


def train(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Trains the student, evaluates, and writes the report."""
  run = resolve.resolve(config, _devices(config))
  changes = workdirs.check(config, workdir)
  say('\n'.join([describe(run, workdir), *changes.notes()]))
  with lock.shared(workdir, '--workdir', say):
    data = distill.prepare(run, say)
    teachers = distill.load_teachers(run)
    inputs = distill.inputs(run, data, teachers)
    mixture = distill.describe_mixture(run, data.train)
    workdirs.begin(run, workdir, changes, inputs, mixture)
    distill.train(run, data, teachers, workdir, say)


def evaluate(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Evaluates the workdir's student, or the one that student.init names."""
  # A teacher adds the distance from it to the scores.
  run = _open(config, workdir, with_teachers=bool(config.teacher.init))
  measure.evaluate(run, workdir, say)


def generate(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Answers the prompts of generate.prompts."""
  outputs.generate(_open_alone(config, workdir, 'generate'), workdir, say)


def chat(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Talks to the student that `generate` would ask."""
  console = console_lib.Console()
  run = _open_alone(config, workdir, 'chat', warn=console.say)
  chat_lib.chat(run, workdir, console)


def search(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Searches trees of thought for the instances of `search`."""
  if search_fields.asks_model(config.search):
    run = _open_alone(config, workdir, 'search')
  else:
    run = resolve.resolve(config, _devices(config))
    _check_alone('search')
  search_lib.search(run, workdir, say)


def reason(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Samples worked solutions of the problems of `reasoning`."""
  with_teachers = config.reasoning.model == 'teacher'
  run = _open_alone(config, workdir, 'reason', with_teachers)
  make_sampler = functools.partial(samplers.make, run)
  reason_lib.reason(run, workdir, make_sampler, say)


def cache(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes a teacher's targets, or reports on those that are there."""
  writer = feed.source(config).computed_by
  if writer:
    # The config of a run that reads the cache also says how it is made.
    config = config.copy_and_resolve_references()
    config.teacher.source = writer
  run = resolve.resolve(config, _devices(config))
  for line in _template_warnings(run):
    say(line)
  cache_lib.cache(run, workdir, say)


def export(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes <workdir>/export/hf."""
  outputs.export(_open_alone(config, workdir, 'export'), workdir, say)


MODES: dict[str, Callable[[ml_collections.ConfigDict, str], None]] = {
  'train': train,
  'cache': cache,
  'eval': evaluate,
  'generate': generate,
  'chat': chat,
  'search': search,
  'reason': reason,
  'export': export,
}
