"""Removes the steps that a resumed run repeats from TensorBoard event files.

Importing tensorboard is slow: it is imported within functions.
"""

from collections.abc import Callable
import glob
import io
import os
import socket
import time
from typing import Any

from kd.core import atomic_files

_PATTERN = 'events.out.tfevents.*'
_VERSION = 'brain.Event:2'

# Whether the value of a step and tag will not be written again.
Kept = Callable[[int, str], bool]


def drop(folder: str, kept: Kept) -> None:
  """Rewrites a folder's event files without values that will be repeated.

  The remaining values are written to one new file, then the old files are
  deleted. A truncated record and the rest of its file are dropped too.

  Args:
    folder: the workdir.
    kept: whether to keep the value of a step and tag.
  """
  from tensorboard.compat.proto import event_pb2

  paths = sorted(glob.glob(_PATTERN, root_dir=folder))
  if not paths:
    return
  # Files are read in the order of their names, which begin with the second of
  # their creation. The new file must sort after all existing ones.
  while paths[-1].startswith(_name(time.time())):
    time.sleep(0.05)
  now = time.time()
  # The zero sorts it before the file that this process opens next.
  name = f'{_name(now)}.0.{socket.gethostname()}.{os.getpid()}'
  paths = [os.path.join(folder, path) for path in paths]
  # Every start event but the first makes TensorBoard discard all values so far.
  # With two, an open TensorBoard drops those that it has read in the old files.
  start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
  events = [
    event_pb2.Event(wall_time=now, file_version=_VERSION),
    *[event_pb2.Event(wall_time=now, step=0, session_log=start)] * 2,
  ]
  for event in _values(paths):
    remaining = [v for v in event.summary.value if kept(event.step, v.tag)]
    del event.summary.value[:]
    event.summary.value.extend(remaining)
    if remaining:
      events.append(event)
  _write(os.path.join(folder, name), events)
  for path in paths:
    os.remove(path)


def _name(seconds):
  return f'events.out.tfevents.{int(seconds):010}'


def _values(paths: list[str]) -> list[Any]:
  """Returns the events with values of a run's files, in TensorBoard's order."""
  from tensorboard.backend.event_processing import event_file_loader
  from tensorboard.compat.proto import event_pb2

  events = []
  for path in paths:
    for record in event_file_loader.RawEventFileLoader(path).Load():
      event = event_pb2.Event.FromString(record)
      if event.session_log.status == event_pb2.SessionLog.START:
        events = [e for e in events if e.step < event.step]
      if event.HasField('summary'):
        events.append(event)
  return events


def _write(path, events):
  from tensorboard.summary.writer import record_writer

  buffer = io.BytesIO()
  writer = record_writer.RecordWriter(buffer)
  for event in events:
    writer.write(event.SerializeToString())
  atomic_files.write_bytes(path, buffer.getvalue())
