"""Lists the longest operations of a profiler's trace.

A trace is an XSpace file. Each device has a plane with its operations in a line
'XLA Ops'; on CPUs they are in the host's plane, in the lines of its threads.
Events of a line can be nested, such as the body in a loop. An operation's own
time excludes the operations nested in it.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import glob
import os
from typing import Any

import jax

from kd.core import atomic_files

JSON, MARKDOWN = 'operations.json', 'operations.md'
_DEVICE, _LINE = '/device:', 'XLA Ops'
_PROGRAM, _OPERATION = 'hlo_module', 'hlo_op'
_SHOWN = 30  # Operations.
_LONGEST = 60  # Characters of a name.


@dataclasses.dataclass
class Operation:
  """An operation of a compiled program.

  Attributes:
    name: name in the compiled program.
    program: name of the program; '' if the trace lacks it.
    kind: the profiler's category, such as 'convolution fusion'; '' on CPUs.
    calls: number of times it ran, on all devices.
    seconds: its own time, on all devices.
  """

  name: str
  program: str
  kind: str
  calls: int = 0
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Operations:
  """The operations of a trace.

  Attributes:
    operations: the operations, the longest first.
    busy_s: seconds in which some operation ran, averaged over devices.
  """

  operations: Sequence[Operation]
  busy_s: float

  @property
  def seconds(self) -> float:
    """The own time of all operations, on all devices."""
    return sum(x.seconds for x in self.operations)


@dataclasses.dataclass(frozen=True)
class _Event:
  begin: float
  end: float
  operation: Operation


def read(folder: str) -> Operations:
  """Reads the newest trace of jax.profiler below a folder.

  Raises:
    FileNotFoundError: there is no trace.
  """
  pattern = os.path.join(glob.escape(folder), '**', '*.xplane.pb')
  files = sorted(glob.glob(pattern, recursive=True), key=os.path.getmtime)
  if not files:
    raise FileNotFoundError(2, 'no trace', folder)
  data = jax.profiler.ProfileData.from_file(files[-1])
  operations: dict[tuple[str, str], Operation] = {}
  spans = []
  for plane in data.planes:
    lines = [_events(plane, line, operations) for line in plane.lines]
    for events in lines:
      _add_own_times(events)
    busy = _union([(e.begin, e.end) for events in lines for e in events])
    if busy:
      spans.append(busy)
  longest = sorted(operations.values(), key=lambda x: -x.seconds)
  return Operations(longest, sum(spans) / len(spans) if spans else 0.0)


def _events(plane, line, operations) -> list[_Event]:
  """Returns the operations of a line, with times in seconds."""
  is_device = plane.name.startswith(_DEVICE)
  events = []
  for event in line.events:
    stats = dict(event.stats) if is_device or event.duration_ns else {}
    if line.name != _LINE and _OPERATION not in stats:
      continue
    name = str(stats.get(_OPERATION, event.name)).partition(' = ')[0]
    program = str(stats.get(_PROGRAM, ''))
    kind = str(stats.get('hlo_category', ''))
    operation = operations.setdefault(
      (program, name), Operation(name.lstrip('%'), program, kind)
    )
    begin = event.start_ns / 1e9
    events.append(_Event(begin, begin + event.duration_ns / 1e9, operation))
  return events


def _add_own_times(events: Sequence[_Event]) -> None:
  """Adds the events of one line to their operations."""
  open_: list[_Event] = []
  for event in sorted(events, key=lambda e: (e.begin, -e.end)):
    while open_ and open_[-1].end <= event.begin:
      open_.pop()
    seconds = event.end - event.begin
    event.operation.calls += 1
    event.operation.seconds += seconds
    if open_:
      open_[-1].operation.seconds -= seconds
    open_.append(event)


def _union(spans: Sequence[tuple[float, float]]) -> float:
  """Returns the length of the union of intervals."""
  total, reached = 0.0, float('-inf')
  for begin, end in sorted(spans):
    total += max(0.0, end - max(begin, reached))
    reached = max(reached, end)
  return total


def write(
  folder: str,
  operations: Operations,
  first_step: int,
  steps: int,
  wall_s: float,
) -> str:
  """Writes the table as Markdown and JSON; returns the path of the Markdown.

  Args:
    folder: folder of the files.
    operations: operations of the trace.
    first_step: number of updates before the first traced step.
    steps: number of traced steps.
    wall_s: duration of these steps.
  """
  fields = {
    'first_step': first_step,
    'steps': steps,
    'wall_s': wall_s,
    'busy_s': operations.busy_s,
    'operations': [dataclasses.asdict(x) for x in operations.operations],
  }
  atomic_files.write_json(os.path.join(folder, JSON), fields)
  path = os.path.join(folder, MARKDOWN)
  atomic_files.write_text(
    path, '\n\n'.join(_markdown(fields, operations)) + '\n'
  )
  return path


def _markdown(
  fields: Mapping[str, Any], operations: Operations
) -> Iterator[str]:
  first, steps = fields['first_step'], fields['steps']
  busy = operations.busy_s / max(fields['wall_s'], 1e-9)
  yield '# Longest operations'
  yield (
    f'Steps {first + 1} to {first + steps} took {fields["wall_s"]:.3f} s; in '
    f'{busy:.0%} of it an operation ran. Times are own times, without the '
    'operations within, on all devices.'
  )
  lines = [
    '| operation | program | kind | calls | ms a step | share |',
    '| --- | --- | --- | ---: | ---: | ---: |',
  ]
  for x in operations.operations[:_SHOWN]:
    share = x.seconds / (operations.seconds or 1.0)
    lines.append(
      f'| `{x.name[:_LONGEST]}` | {x.program} | {x.kind} | {x.calls:,} | '
      f'{1e3 * x.seconds / steps:,.3f} | {share:.1%} |'
    )
  yield '\n'.join(lines)
