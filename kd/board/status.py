"""Tells from a workdir's files whether its run is running, and how it ended."""

import dataclasses
import json
import os
import socket

from kd.board import run_files
from kd.core import errors
from kd.run import lock
from kd.run import outputs
from kd.train import report

RUNNING, FINISHED = 'running', 'finished'
FAILED, PREEMPTED, STOPPED = 'failed', 'preempted', 'stopped'
ALL = (RUNNING, FINISHED, FAILED, PREEMPTED, STOPPED)

# A run of another host that has written within these seconds is running.
_RECENT_S = 900


@dataclasses.dataclass(frozen=True)
class Status:
  """The state of a run.

  Attributes:
    name: one of ALL. `stopped`: it has not finished, and nothing says why: it
      was killed, or a version of kd that recorded no reason ran it.
    why: what says so.
  """

  name: str
  why: str


def of(files: run_files.RunFiles, now: float) -> Status:
  """Returns the status of a run.

  Args:
    files: of the run.
    now: seconds since 1970.
  """
  holder = _holder(files.folder)
  silent = now - files.modified
  if holder and _is_running(files.folder, holder, silent):
    return Status(RUNNING, 'process {pid} on {host}'.format_map(holder))
  end = _end(files)
  if end:
    return Status(FINISHED, end)
  code = files.end.get('code')
  if code is not None:
    is_preempted = code == errors.PreemptedError.exit_code
    error = str(files.end.get('error', ''))
    return Status(PREEMPTED if is_preempted else FAILED, f'{error} ({code})')
  if holder:
    process = 'process {pid} on {host}'.format_map(holder)
    return Status(STOPPED, f'{process} was killed')
  return Status(STOPPED, 'it ended before its last step')


def _holder(folder):
  """Returns process and host that the lock file names; None without one."""
  try:
    with open(os.path.join(folder, lock.FILE), encoding='utf-8') as f:
      holder = json.load(f)
    return {'pid': int(holder['pid']), 'host': str(holder['host'])}
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None


def _is_running(folder, holder, silent_s):
  if holder['host'] != socket.gethostname():
    return silent_s < _RECENT_S
  pid = holder['pid']
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except (PermissionError, OverflowError):
    return True  # Another user's.
  return _has_open(pid, os.path.join(folder, lock.FILE))


def _has_open(pid, path):
  """Returns whether a process has a file open: its number may be reused.

  It is taken to have it where the system does not say.
  """
  where = f'/proc/{pid}/fd'
  try:
    wanted = os.stat(path)
    for name in os.listdir(where):
      try:
        if os.path.samestat(os.stat(os.path.join(where, name)), wanted):
          return True
      except OSError:
        continue
  except OSError:
    return True
  return False


def _end(files):
  """Returns how a run has finished; '' if it has not."""
  ends, steps = files.ends(), files.config.get('steps')
  if 'ends' not in files.run:
    # Versions of kd that did not record it wrote the report last.
    has_report = os.path.exists(os.path.join(files.folder, report.FILE))
    is_whole = isinstance(steps, int) and files.step >= steps
    return report.FILE if has_report and is_whole else ''
  student = ends.get('student')
  evaluation = files.config.get('evaluation')
  has_baseline = isinstance(evaluation, dict) and evaluation.get('baseline')
  if not isinstance(student, dict) or (
    has_baseline and outputs.BASELINE not in ends
  ):
    return ''
  reason, step = student.get('reason') or '', student.get('step')
  # A run whose `steps` were raised has ended once, and not yet again.
  is_short = isinstance(steps, int) and isinstance(step, int) and step < steps
  return '' if is_short and not reason else str(reason) or f'after step {step}'
