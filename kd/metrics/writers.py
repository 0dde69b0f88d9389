"""Writes metrics with clu: JSON lines, the terminal, TensorBoard, trackers.

Importing this module imports TensorFlow where it is installed, as clu does.
Import it inside the function that starts a run, not at the top of a module.
"""

from collections.abc import Callable, Mapping, Sequence
import glob
import os
import sys
import time
import types
from typing import Any

from clu import metric_writers
import jax

from kd.core import compilations
from kd.core import durations
from kd.core import errors
from kd.core import host_memory
from kd.core import json_lines
from kd.core import run_info
from kd.metrics import scalar_writer
from kd.metrics import tensorboard_events
from kd.metrics import trackers as trackers_lib

JSON_LINES = 'metrics.jsonl'
_LINE = 'unchanged lines; delete this one'
# Evaluation metrics that are written to the files but not to the terminal.
_HIDDEN = (
  *('perplexity', 'accuracy'),
  *('truncated', 'too_long', 'unparsed', 'many_markers'),
)


def _remains(step, is_evaluation, restart_after, evaluated):
  """Returns whether to keep a step's metrics: a resumed run skips the step."""
  if step == restart_after:
    return evaluated or not is_evaluation
  return step < restart_after


def _is_of_evaluation(tag):
  """Returns whether evaluations write the metric."""
  return tag.startswith('eval/') or tag == 'perf/evaluation_s'


def _stays(record, where, step, evaluated):
  """Returns whether to keep a line of metrics.jsonl."""
  try:
    at, is_evaluation = record['step'], record['phase'] == 'eval'
    return _remains(at, is_evaluation, step, evaluated)
  except (KeyError, TypeError) as e:
    raise errors.ConfigError(
      where, f'is not a line of metrics: {e}', _LINE
    ) from e


class JsonLinesWriter(scalar_writer.ScalarWriter):
  """Writes one JSON object per call: step, phase, then values by name."""

  def __init__(self, folder: str, restart_after: int, evaluated: bool):
    """Opens the file, and drops the lines that a resumed run will repeat.

    Args:
      folder: the workdir.
      restart_after: the step that the run resumes from; later ones are dropped.
      evaluated: whether that step's evaluation will not be repeated.

    Raises:
      ConfigError: a line does not contain metrics; the error names it.
    """
    self._path = os.path.join(folder, JSON_LINES)
    if os.path.exists(self._path):
      self._drop_after(restart_after, evaluated)
    self._file = open(self._path, 'ab')  # noqa: SIM115

  def _drop_after(self, step, evaluated):
    lines = json_lines.resume(self._path, _LINE)
    kept = [x for where, x in lines if _stays(x, where, step, evaluated)]
    json_lines.write(self._path, kept)

  def write_scalars(self, step, scalars):
    phase = 'eval' if any(k.startswith('eval/') for k in scalars) else 'train'
    record = {'step': int(step), 'phase': phase}
    self._write(
      record | {name: run_info.json_number(v) for name, v in scalars.items()}
    )

  def write_texts(self, step, texts):
    # Answers of an evaluation are written to a separate file.
    texts = {k: v for k, v in texts.items() if not k.startswith('eval/')}
    if texts:
      self._write({'step': int(step), 'phase': 'text', **texts})

  def _write(self, record):
    self._file.write(json_lines.encode(record))
    self._file.flush()

  def flush(self):
    """Syncs the file to disk, so that its lines survive a power cut."""
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self):
    self._file.close()


class TerminalWriter(scalar_writer.ScalarWriter):
  """Writes one line per call: step, losses, speed, time left.

  On a terminal, each training line overwrites the previous one.
  """

  def __init__(self, label: str, steps: int, stream=None):
    self._label, self._steps = label, steps
    self._stream = stream or sys.stdout
    self._overwrite = self._stream.isatty()
    self._open_line = False

  def write_scalars(self, step, scalars):
    training = 'perf/step_time_s' in scalars
    parts = [f'{self._label} step {step}/{self._steps}']
    for name, value in scalars.items():
      kind, _, short = name.partition('/')
      # One value for each set; the names of its tasks' values are longer.
      _, *rest = short.split('/')
      if kind == 'eval' and len(rest) == 1 and rest[0] not in _HIDDEN:
        parts.append(f'{short} {float(value):.4f}')
      elif kind == 'train' and (short.startswith('loss') or short == 'lr'):
        parts.append(f'{short} {float(value):.4g}')
    if training:
      parts.append(f'{scalars["perf/tokens_per_s"]:.0f} tokens/s')
      left = (self._steps - step) * scalars['perf/step_time_s']
      parts.append(f'ETA {durations.clock(left)}')
    self._line('  '.join(parts), overwrite=training and step < self._steps)

  def _line(self, text, overwrite):
    start = '\r\033[K' if self._open_line else ''
    self._open_line = self._overwrite and overwrite
    self._stream.write(start + text + ('' if self._open_line else '\n'))
    self._stream.flush()

  def close(self):
    if self._open_line:
      self._stream.write('\n')
      self._open_line = False


class _TensorBoardWriter(metric_writers.SummaryWriter):
  """Writes TensorBoard events; a flush syncs them to disk or mounted bucket."""

  def __init__(self, folder: str):
    super().__init__(folder)
    self._pattern = os.path.join(glob.escape(folder), 'events.out.tfevents.*')

  def flush(self):
    super().flush()
    # TensorFlow writes to the file system without a sync.
    for path in glob.glob(self._pattern):
      with open(path, 'rb') as f:
        os.fsync(f.fileno())


def create(
  folder: str,
  label: str,
  steps: int,
  restart_after: int,
  evaluated: bool,
  tensorboard: bool,
  trackers: Sequence[str] = (),
  config: Mapping[str, Any] = types.MappingProxyType({}),
) -> metric_writers.MetricWriter:
  """Returns the run's writer, which writes only on process 0.

  Args:
    folder: the workdir.
    label: beginning of each line on the terminal.
    steps: number of steps of the whole run.
    restart_after: the step that a resumed run starts from, or 0.
    evaluated: whether that step's evaluation will not be repeated.
    tensorboard: whether to write TensorBoard events too.
    trackers: names in trackers.TRACKERS that receive the metrics too.
    config: the run's config, for trackers.
  """
  if jax.process_index() != 0:
    return metric_writers.MultiWriter([])
  writers = [
    JsonLinesWriter(folder, restart_after, evaluated),
    TerminalWriter(label, steps),
  ]
  if tensorboard:
    tensorboard_events.drop(
      folder,
      lambda step, tag: _remains(
        step, _is_of_evaluation(tag), restart_after, evaluated
      ),
    )
    writers.append(_TensorBoardWriter(folder))
  for name in trackers:
    writers.append(trackers_lib.TRACKERS[name](folder, label, config))
  return metric_writers.MultiWriter(writers)


class StepTimer:
  """Measures the time per step, and the share of it spent waiting."""

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._compilations = compilations.total()
    self.restart()

  def restart(self) -> None:
    """Begins a new interval."""
    self._start, self._waited, self._paused = self._clock(), 0.0, 0.0
    self._sampled, self._saved, self._steps = 0.0, 0.0, 0
    self._compiled: dict[str, float] = {}

  def compiled(self) -> None:
    """Excludes the steps so far, which compiled, from the interval.

    They count only if the interval has no other step.
    """
    step_times = self._shares()
    self.restart()
    self._compiled = step_times

  def wait(self, seconds: float) -> None:
    """Adds time in which a step waited for data."""
    self._waited += seconds

  def sample(self, seconds: float) -> None:
    """Adds time in which the student sampled answers."""
    self._sampled += seconds

  def pause(self, seconds: float) -> None:
    """Adds time outside of steps, such as evaluation and saving."""
    self._paused += seconds

  def save(self, seconds: float) -> None:
    """Adds time in which training waited for a checkpoint.

    The caller counts this time as a pause too.
    """
    self._saved += seconds

  def step(self) -> None:
    self._steps += 1

  def compute(self, tokens_per_step: int) -> dict[str, float]:
    """Returns the interval's perf/ metrics; {} if it has no step."""
    metrics = self._shares() or self._compiled
    if not metrics:
      return {}
    speed = tokens_per_step / metrics['perf/step_time_s']
    return {
      **metrics,
      'perf/tokens_per_s': speed,
      'perf/checkpoint_s': self._saved,
    }

  def compiling(self) -> dict[str, float]:
    """Returns perf/ metrics of compilations since the last call."""
    total = compilations.total()
    new, self._compilations = total - self._compilations, total
    return {
      'perf/compile_s': new.seconds,
      'perf/programs_compiled': new.programs - new.cached,
      'perf/programs_cached': new.cached,
    }

  def _shares(self):
    if not self._steps:
      return {}
    elapsed = max(self._clock() - self._start - self._paused, 1e-9)
    metrics = {
      'perf/step_time_s': elapsed / self._steps,
      'perf/data_wait_share': self._waited / elapsed,
    }
    if self._sampled:
      metrics['perf/rollout_share'] = self._sampled / elapsed
    return metrics


def device_memory(devices: Sequence[jax.Device]) -> Mapping[str, float]:
  """Returns peak bytes of the host, and of devices that report them."""
  peaks = [
    stats['peak_bytes_in_use']
    for stats in (d.memory_stats() for d in devices)
    if stats and 'peak_bytes_in_use' in stats
  ]
  metrics = {'perf/host_peak_bytes': float(host_memory.peak_bytes())}
  if peaks:
    metrics['perf/device_peak_bytes'] = float(max(peaks))
  return metrics
