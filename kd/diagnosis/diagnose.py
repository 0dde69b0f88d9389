"""Diagnoses a workdir: for `kd doctor`, and at the end of a run that failed."""

from collections.abc import Iterator
import contextlib
import os

import jax

from kd.core import errors
from kd.diagnosis import findings
from kd.diagnosis import memory  # noqa: F401  Registers its diagnoses.
from kd.diagnosis import quality  # noqa: F401
from kd.diagnosis import run_record
from kd.diagnosis import speed  # noqa: F401
from kd.diagnosis import stability  # noqa: F401
from kd.diagnosis import training  # noqa: F401
from kd.run import workdirs

_SHOWN = 3  # causes after an error


def report(workdir: str) -> list[str]:
  """Diagnoses the run in a workdir and returns lines for a terminal.

  Raises:
    ConfigError: the folder contains no run.
  """
  if not os.path.isfile(os.path.join(workdir, workdirs.CONFIG_FILE)):
    raise errors.ConfigError(
      '--workdir',
      f'{workdir!r} contains no {workdirs.CONFIG_FILE}',
      legal='the workdir of a run',
    )
  record = run_record.read(workdir)
  # Imports the run's plugins, which may register diagnoses.
  _ = record.parsed_config
  shown = findings.diagnose(record)
  names = ', '.join(findings.DIAGNOSES.names())
  return [
    f'{workdir}: {_state(record)}',
    *(findings.lines(shown) or [f'no cause was found; looked for: {names}']),
  ]


def _state(record: run_record.RunRecord) -> str:
  """Returns the last step of the run and its status as text."""
  step = record.train[-1]['step'] if record.train else 0
  status = record.status
  return f'step {step:,} of {record.steps:,}, {status.name}: {status.why}'


@contextlib.contextmanager
def explained(workdir: str) -> Iterator[None]:
  """Adds the likely causes of an error that ends a run to its notes.

  Args:
    workdir: the folder of the run.
  """
  try:
    yield
  except Exception as e:
    refused = isinstance(e, errors.ConfigError | errors.PreemptedError)
    if not refused and jax.process_index() == 0:
      # A failing diagnosis must not hide the error itself.
      with contextlib.suppress(Exception):
        record = run_record.read(workdir, thorough=False)
        for finding in findings.diagnose(record)[:_SHOWN]:
          e.add_note(f'likely cause: {finding.cause}: {finding.remedy}')
    raise
