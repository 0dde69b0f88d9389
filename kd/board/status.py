"""Determines the status of a run from the files of its workdir."""

import dataclasses
import json
import os
import socket

from kd.board import run_files
from kd.core import buckets
from kd.core import errors
from kd.run import lock
from kd.run import outputs
from kd.train import report

RUNNING, FINISHED = 'running', 'finished'
FAILED, PREEMPTED, STOPPED = 'failed', 'preempted', 'stopped'
ALL = (RUNNING, FINISHED, FAILED, PREEMPTED, STOPPED)

# A run on another host counts as running if it wrote within this time.
_RECENT_S = 900
# A run in a bucket counts as running if its lease was renewed within this time,
# by the store's clock.
_RENEWED_S = 120


@dataclasses.dataclass(frozen=True)
class Status:
  """The state of a run.

  Attributes:
    name: one of ALL. STOPPED is a run that ended early without a recorded
      reason: it was killed, or its version of kd did not record reasons.
    why: the evidence for the status.
  """

  name: str
  why: str


def of(files: run_files.RunFiles, now: float, in_bucket: bool) -> Status:
  """Returns the status of a run.

  Args:
    files: files of the run.
    now: current time in seconds since 1970.
    in_bucket: whether the workdir is in a bucket.
  """
  name = buckets.LEASE if in_bucket else lock.FILE
  holder = _holder(files.folder, name)
  if not holder:
    is_running = False
  elif in_bucket:
    is_running = now - holder['modified'] < _RENEWED_S
  else:
    is_running = _is_running(files.folder, holder, now - files.modified)
  if is_running:
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
  return Status(STOPPED, 'ended before the last step')


def _holder(folder, name):
  """Returns process, host and date from a lock or lease; None without one."""
  try:
    with open(os.path.join(folder, name), encoding='utf-8') as f:
      holder, modified = json.load(f), os.fstat(f.fileno()).st_mtime
    return {
      'pid': int(holder['pid']),
      'host': str(holder['host']),
      'modified': modified,
    }
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
    return True  # Another user's process.
  return _has_open(pid, os.path.join(folder, lock.FILE))


def _has_open(pid, path):
  """Returns whether a process has a file open, as process ids are reused.

  True if the system does not provide this information.
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
  """Returns the reason why a run has finished; '' if it has not."""
  ends, steps = files.ends(), files.config.get('steps')
  if 'ends' not in files.run:
    # Versions of kd without this record wrote the report last.
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
  # If `steps` was raised, the recorded end is that of the shorter run.
  is_short = isinstance(steps, int) and isinstance(step, int) and step < steps
  return '' if is_short and not reason else str(reason) or f'after step {step}'
