"""Reads the files of a run, whatever their state.

The run may be writing them, may have been killed, or may be of another version.
Everything readable is read; `problems` lists the rest.
"""

import array
from collections.abc import Iterator, Mapping
import dataclasses
import json
import math
import os
from typing import Any

from kd.run import exits
from kd.run import outputs

CONFIG, RUN, METRICS = 'config.json', 'run.json', 'metrics.jsonl'
# A folder with one of these files is the workdir of a run.
MARKS = (RUN, METRICS)
BASELINE = f'{outputs.BASELINE}.'  # Prefix of the baseline's metrics.
_MOST_PROBLEMS = 5  # Problems reported per file.


@dataclasses.dataclass
class Series:
  """The steps and values of a metric, in the order of the file."""

  steps: array.array = dataclasses.field(
    default_factory=lambda: array.array('q')
  )
  values: array.array = dataclasses.field(
    default_factory=lambda: array.array('d')
  )

  def best(self, highest: bool) -> tuple[int, float] | None:
    """Returns step and value of the best point; None if none is finite."""
    pairs = [
      (value, -step)
      for step, value in zip(self.steps, self.values, strict=True)
      if math.isfinite(value)
    ]
    if not pairs:
      return None
    value, step = max(pairs) if highest else min(pairs, key=_lowest)
    return -step, value


def _lowest(pair):
  value, step = pair
  return value, -step


class _MetricFile:
  """The metrics of a metrics.jsonl file, which may grow or be replaced."""

  def __init__(self, path: str):
    self._path, self._file_id, self._offset = path, None, 0
    self._lines = 0
    self.series: dict[str, Series] = {}
    self.problems: list[str] = []
    self.incomplete_bytes = 0  # of the last line

  def read(self) -> None:
    """Reads the lines added since the last call."""
    try:
      with open(self._path, 'rb') as f:
        stat = os.fstat(f.fileno())
        if (stat.st_dev, stat.st_ino) != self._file_id or (
          stat.st_size < self._offset
        ):
          self.__init__(self._path)
          self._file_id = stat.st_dev, stat.st_ino
        f.seek(self._offset)
        data = f.read()
    except FileNotFoundError:
      self.__init__(self._path)
      return
    except OSError as e:
      self.problems = [f'{METRICS}: {e.strerror}']
      return
    whole = data.rfind(b'\n') + 1
    self._offset += whole
    self.incomplete_bytes = len(data) - whole
    for line in data[:whole].splitlines():
      self._lines += 1
      self._add(line)

  def _add(self, line):
    try:
      record = json.loads(line)
      step = record.pop('step')
      is_text = record.pop('phase') == 'text'
      if type(step) is not int or not 0 <= step < 2**63:
        raise ValueError('no step')
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
      if len(self.problems) < _MOST_PROBLEMS:
        self.problems.append(
          f'{METRICS}:{self._lines}: not a line of metrics; skipped'
        )
      return
    for name, value in {} if is_text else record.items():
      if not isinstance(value, float):
        try:
          value = float(value)  # An integer, or 'NaN'.
        except (ValueError, TypeError, OverflowError):
          continue
      series = self.series.get(name)
      if series is None:
        series = self.series[name] = Series()
      series.steps.append(step)
      series.values.append(value)


class RunFiles:
  """The files of one workdir.

  Attributes:
    folder: the workdir.
    config: contents of config.json; {} if it cannot be read.
    run: contents of run.json; {} if it cannot be read.
    end: contents of exit.json, the reason why the last process ended early; {}
      if it did not.
    problems: one line for each problem with a file.
    modified: time of the run's last write, in seconds since 1970.
  """

  def __init__(self, folder: str):
    self.folder = folder
    self.config: dict[str, Any] = {}
    self.run: dict[str, Any] = {}
    self.end: dict[str, Any] = {}
    self.modified = 0.0
    self._json_problems: dict[str, str] = {}
    self._states: dict[str, Any] = {}
    baseline = os.path.join(folder, outputs.BASELINE)
    self._student = _MetricFile(os.path.join(folder, METRICS))
    self._baseline = _MetricFile(os.path.join(baseline, METRICS))

  @property
  def problems(self) -> list[str]:
    """Returns one line for each problem with a file."""
    baseline = [f'{outputs.BASELINE}/{p}' for p in self._baseline.problems]
    return [
      *self._json_problems.values(),
      *self._student.problems,
      *baseline,
    ]

  @property
  def incomplete_bytes(self) -> int:
    """Returns the size in bytes of an incomplete last line of metrics."""
    return self._student.incomplete_bytes

  def refresh(self) -> bool:
    """Reads changed files and returns whether there were any."""
    before = dict(self._states)
    for name in (CONFIG, RUN, exits.FILE, METRICS, self._of_baseline()):
      self._states[name] = self._state(name)
    changed = {k for k, v in self._states.items() if before.get(k) != v}
    if not before:
      changed = set(self._states)
    if CONFIG in changed:
      self.config = self._json(CONFIG)
    if RUN in changed:
      self.run = self._json(RUN)
    if exits.FILE in changed:
      self.end = self._json(exits.FILE)
    if METRICS in changed:
      self._student.read()
    if self._of_baseline() in changed:
      self._baseline.read()
    times = [state[0] for state in self._states.values() if state]
    self.modified = max(times, default=0) / 1e9
    return bool(changed)

  def _of_baseline(self):
    return os.path.join(outputs.BASELINE, METRICS)

  def _state(self, name):
    try:
      stat = os.stat(os.path.join(self.folder, name))
    except OSError:
      return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino

  def _json(self, name):
    """Reads a JSON object; otherwise records a problem and returns {}."""
    self._json_problems.pop(name, None)
    if self._states[name] is None:
      if name in (CONFIG, RUN):
        self._json_problems[name] = f'{name} is missing'
      return {}
    try:
      with open(os.path.join(self.folder, name), 'rb') as f:
        value = json.loads(f.read())
      if isinstance(value, dict):
        return value
      problem = 'is not a JSON object'
    except (ValueError, RecursionError):
      problem = 'is damaged: not JSON'
    except OSError as e:
      problem = e.strerror or 'cannot be read'
    self._json_problems[name] = f'{name} {problem}'
    return {}

  def series(self) -> Iterator[tuple[str, Series]]:
    """Yields names and metrics; the baseline's are named baseline.NAME."""
    yield from self._student.series.items()
    for name, series in self._baseline.series.items():
      yield BASELINE + name, series

  def get(self, name: str) -> Series | None:
    """Returns a metric by its name in `series`; None if it does not exist."""
    if name.startswith(BASELINE):
      return self._baseline.series.get(name.removeprefix(BASELINE))
    return self._student.series.get(name)

  @property
  def step(self) -> int:
    """Returns the last step in the student's metrics."""
    return max(
      (s.steps[-1] for s in self._student.series.values() if s.steps),
      default=0,
    )

  def ends(self) -> Mapping[str, Any]:
    """Returns the ends of the student's and the baseline's training."""
    ends = self.run.get('ends')
    return ends if isinstance(ends, dict) else {}
