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
  """Returns what the files of a run say, as lines for a terminal.

  Raises:
    ConfigError: the folder holds no run.
  """
  if not os.path.isfile(os.path.join(workdir, workdirs.CONFIG_FILE)):
    raise errors.ConfigError(
      '--workdir',
      f'{workdir!r} holds no {workdirs.CONFIG_FILE}',
      legal='the workdir of a run',
    )
  record = run_record.read(workdir)
  _ = record.parsed_config  # Imports the run's plugins, which may add causes.
  shown = findings.diagnose(record)
  names = ', '.join(findings.DIAGNOSES.names())
  return [
    f'{workdir}: {_state(record)}',
    *(findings.lines(shown) or [f'no cause was found; looked for: {names}']),
  ]


def _state(record: run_record.RunRecord) -> str:
  """Returns how far the run came, and how it ended."""
  step = record.train[-1]['step'] if record.train else 0
  status = record.status
  return f'step {step:,} of {record.steps:,}, {status.name}: {status.why}'


@contextlib.contextmanager
def explained(workdir: str) -> Iterator[None]:
  """Adds the likely causes to an error that ends a run, as its notes.

  Args:
    workdir: the folder of the run, which records its failures.
  """
  try:
    yield
  except Exception as e:
    refused = isinstance(e, errors.ConfigError | errors.PreemptedError)
    if not refused and jax.process_index() == 0:
      # The error itself must reach the user, whatever the files hold.
      with contextlib.suppress(Exception):
        record = run_record.read(workdir, thorough=False)
        for finding in findings.diagnose(record)[:_SHOWN]:
          e.add_note(f'likely cause: {finding.cause}: {finding.remedy}')
    raise
