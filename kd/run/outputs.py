"""Lists the files of a workdir, loads its student and formats settings."""

import dataclasses

from kd.checkpoints import manager
from kd.core import types
from kd.run import load_params
from kd.run import resolved
from kd.run import saved_params
from kd.sampling import requests

BASELINE = 'baseline'
EVALUATIONS = 'evaluations'
FILES = (
  'config.json',
  'run.json',
  'metrics.jsonl',
  'checkpoints/',
  'evaluations/',
  'report.md',
)


def has_checkpoint(workdir: str) -> bool:
  """Returns whether a run has saved its parameters."""
  return manager.latest_step(workdir) is not None


def student_params(run: resolved.Run, workdir: str) -> types.PyTree:
  """Reads the parameters of the workdir's checkpoint, or else student.init.

  Args:
    run: the run, from resolve_student, which refuses students without weights.
    workdir: a folder that may contain a run.
  """
  if has_checkpoint(workdir):
    return saved_params.restore(
      workdir,
      run.student,
      run.config.export.checkpoint,
      '--workdir',
      averaged=_reads_average(run),
    )
  return load_params.load(run.student, run.config.seed, 'student.init', None)


def student_source(run: resolved.Run, workdir: str) -> tuple[str, str]:
  """Returns a file name and a title for the source of student_params."""
  if has_checkpoint(workdir):
    which = run.config.export.checkpoint
    if _reads_average(run):
      return f'{which}_ema', f'{which} checkpoint, averaged parameters'
    return which, f'{which} checkpoint'
  return 'init', run.student.init


def student_step(run: resolved.Run, workdir: str) -> int | None:
  """Returns the step of the checkpoint that student_params reads, if any."""
  if run.config.export.checkpoint == 'best':
    return manager.best_step(workdir)
  return manager.latest_step(workdir)


def _reads_average(run):
  return run.config.export.params == 'ema'


def settings_line(settings: requests.SamplingSettings) -> str:
  """Formats all sampling settings in one line."""
  chosen = dataclasses.asdict(settings)
  return 'settings: ' + ', '.join(f'{k} {v}' for k, v in chosen.items())
