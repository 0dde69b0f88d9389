"""What a run leaves: files of a workdir, completions, exports."""

from collections.abc import Callable
import dataclasses
import os

from kd.checkpoints import huggingface
from kd.checkpoints import manager
from kd.checkpoints import weights
from kd.core import identity
from kd.core import paths
from kd.core import progress
from kd.core import types
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.partitioning import rules
from kd.sampling import engine
from kd.sampling import fields as sampling_fields
from kd.sampling import prompts
from kd.sampling import requests
from kd.teachers import fingerprints
from kd.train import parameters
from kd.train import resolved

BASELINE = 'baseline'
EVALUATIONS = 'evaluations'
FILES = (
  'config.json',
  'run.json',
  'tokenizer.model',
  'metrics.jsonl',
  'checkpoints/',
  'evaluations/',
  'report.md',
)

Say = Callable[[str], None]


def student_params(run: resolved.Run, workdir: str) -> types.PyTree:
  """Reads the workdir's checkpoint, or what student.init names without one.

  Args:
    run: from resolve_student, which refuses a student without weights.
    workdir: the folder that may hold a run.
  """
  if manager.latest_step(workdir) is not None:
    return parameters.restore(
      workdir, run.student, run.config.export.checkpoint, '--workdir'
    )
  return parameters.load(run.student, run.config.seed, 'student.init', None)


def student_source(run: resolved.Run, workdir: str) -> tuple[str, str]:
  """Returns what student_params reads: a name for files, and a title."""
  if manager.latest_step(workdir) is not None:
    which = run.config.export.checkpoint
    return which, f'{which} checkpoint'
  return 'init', run.student.init


def settings_line(settings: requests.Settings) -> str:
  """Returns all sampling settings: none comes from anywhere but the config."""
  chosen = dataclasses.asdict(settings)
  return 'settings: ' + ', '.join(f'{k} {v}' for k, v in chosen.items())


def generate(run: resolved.Run, workdir: str, say: Say) -> None:
  """Answers the prompts of a file, one JSON line each; resumes a file.

  Raises:
    ConfigError: a file is missing, a line of it is wrong, or devices don't
      divide generate.batch_size.
  """
  fields = run.config.generate
  settings = sampling_fields.settings(fields, tuple(fields.stop_strings))
  module = run.student.module
  sampling_fields.check_devices(
    fields.batch_size, run.mesh, 'generate.batch_size'
  )
  engine.check_room(module, settings.max_new_tokens, 'generate.max_new_tokens')
  path = paths.expand(
    fields.output or os.path.join(workdir, 'completions.jsonl')
  )
  questions = prompts.read(
    paths.expand(fields.prompts), run.tokenizer, run.config.data.template
  )
  words = engine.vocabulary(run.tokenizer)
  sampler = engine.Engine(module, words, fields.batch_size)
  params = student_params(run, workdir)
  say(settings_line(settings))
  with (
    rules.active(run.mesh),
    progress.Progress('generate', say, len(questions), 'prompts') as task,
  ):
    records = prompts.answer_file(
      lambda asked: sampler.stream(params, asked, settings),
      questions,
      prompts.requests_of(questions, fields.seed, fields.samples),
      settings,
      path,
      fields.logprobs,
      identity.digest(run.student.identity(fingerprints.of(params))),
      say,
      progress=lambda done, total: task.set(done),
    )
  ends = [
    sample['finish'] for record in records for sample in record['samples']
  ]
  say(
    f'{path}: {len(records)}/{len(questions)} prompts answered, {len(ends)} '
    f'answers, {ends.count("length")} cut at '
    f'{settings.max_new_tokens} tokens, {ends.count("too_long")} to prompts '
    'that are too long'
  )


def export(run: resolved.Run, workdir: str, say: Say) -> None:
  """Writes config, weights and tokenizer that transformers and vLLM load."""
  # Before the weights are read, which may take minutes.
  hf_tokenizer.check(run.tokenizer, 'data.tokenizer')
  folder = os.path.join(workdir, 'export', 'hf')
  tokenizer, template = run.tokenizer, run.config.data.template
  huggingface.write(
    folder,
    student_params(run, workdir),
    run.student.config,
    run.config.export.dtype,
    tokenizer.bos_id,
    tokenizer.stop_ids,
    tokenizer.pad_id,
    lambda new: hf_tokenizer.write(tokenizer, new, templates.JINJA[template]),
  )
  source = run.student.source if run.student.keep_layers else None
  warning = weights.pattern_warning(run.student.config, source)
  if warning:
    say(f'warning: {warning}')
  say(f'wrote {folder}: {", ".join(sorted(os.listdir(folder)))}')
