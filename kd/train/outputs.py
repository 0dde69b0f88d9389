"""What a run leaves: files of a workdir, completions, exports."""

from collections.abc import Callable
import os

from kd.checkpoints import huggingface
from kd.checkpoints import manager
from kd.checkpoints import weights
from kd.core import errors
from kd.core import types
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import templates
from kd.partitioning import rules
from kd.sampling import decode
from kd.sampling import prompts
from kd.train import parameters
from kd.train import resolve

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


def student_params(run: resolve.Run, workdir: str) -> types.PyTree:
  """The workdir's checkpoint, or what student.init names if there is none.

  Raises:
    ConfigError: neither exists: the student is random or the teacher's layers.
  """
  if os.path.isdir(os.path.join(workdir, manager.FOLDER)):
    return parameters.restore(
      workdir, run.student, run.config.export.checkpoint, '--workdir'
    )
  kind = run.student.init.partition(':')[0]
  if kind in ('random', 'teacher'):
    raise errors.ConfigError(
      '--workdir',
      f'{workdir!r} holds no checkpoint, and student.init is '
      f'{run.student.init!r}',
      legal='the workdir of a run, or student.init=hf:DIR or gguf:FILE',
    )
  return parameters.load(run.student, run.config.seed, 'student.init', None)


def generate(run: resolve.Run, workdir: str, say: Say) -> None:
  """Answers the prompts of a file, one JSON line each; goes on where it was.

  Raises:
    ConfigError: a file is missing or a line of it is wrong.
  """
  config = run.config
  path = config.generate.output or os.path.join(workdir, 'completions.jsonl')
  questions = prompts.read(
    config.generate.prompts, run.tokenizer, config.data.template
  )
  decoder = decode.Decoder(
    run.student.module,
    run.tokenizer.vocab_size,
    run.tokenizer.stop_ids,
    run.tokenizer.pad_id,
    config.evaluation.max_new_tokens,
    config.evaluation.batch_size,
  )
  params = student_params(run, workdir)
  with rules.active(run.mesh):
    records = prompts.answer_file(
      decoder,
      params,
      questions,
      run.tokenizer,
      path,
      progress=lambda done, total: say(f'{done}/{total} prompts answered'),
    )
  cut = sum(record['truncated'] for record in records)
  too_long = sum(record['too_long'] for record in records)
  say(
    f'{path}: {len(records)} answers, {cut} cut at '
    f'{config.evaluation.max_new_tokens} tokens, {too_long} prompts too long'
  )


def export(run: resolve.Run, workdir: str, say: Say) -> None:
  """Writes config, weights and tokenizer that transformers and vLLM load."""
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
  warning = weights.pattern_warning(run.student.config)
  if warning:
    say(f'warning: {warning}')
  say(f'wrote {folder}: {", ".join(sorted(os.listdir(folder)))}')
