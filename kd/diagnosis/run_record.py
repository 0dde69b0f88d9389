"""Reads the files of a run; missing and damaged ones are skipped."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import math
import os
import time
from typing import Any

import ml_collections

from kd.board import run_files
from kd.board import status as status_lib
from kd.core import errors
from kd.data_files import source
from kd.evaluation import measures
from kd.evaluation import results
from kd.input_pipeline import prepared
from kd.planning import suggestions
from kd.planning.cost import chips
from kd.planning.cost import estimates
from kd.run import outputs
from kd.run import workdirs
from kd.train import curves
from kd.train import evaluation_records
from kd.train import nonfinite_origin

_ANY_TPU = 'v5e'  # Its figures are not used for devices that are not TPUs.

Line = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """The contents of a workdir.

  Attributes:
    workdir: path of the folder.
    config: config.json, as JSON values; {} if it is missing.
    run: run.json; {} if it is missing.
    train: training metrics by window, in order.
    evals: evaluation metrics by step, in order.
    evaluations: the recorded results of the student's evaluations, by step.
    teacher: the recorded result of the teacher's evaluation, if any.
    exit: exit.json, the reason why the last process ended early; {} if it did
      not.
    status: whether the run is running, and how it ended.
    origin: nonfinite.json if the run ended with a NonFiniteError; else {}.
    baseline: the baseline's record, if one was trained.
    thorough: whether prepared rows may be read, which takes long.
  """

  workdir: str
  config: Mapping[str, Any]
  run: Mapping[str, Any]
  train: Sequence[Line]
  evals: Sequence[Line]
  evaluations: Mapping[int, results.Result]
  teacher: results.Result | None
  exit: Mapping[str, Any]
  status: status_lib.Status
  origin: Mapping[str, Any]
  baseline: 'RunRecord | None'
  thorough: bool

  @property
  def failure(self) -> Mapping[str, Any]:
    """Returns `exit` if it is an unexpected or non-finite error, else {}."""
    codes = errors.KdError.exit_code, errors.NonFiniteError.exit_code
    return self.exit if self.exit.get('code') in codes else {}

  def values(self, name: str) -> list[float]:
    """Returns the finite values of a training metric, by window."""
    return values(self.train, name)

  @functools.cached_property
  def window_steps(self) -> list[int]:
    """Returns the number of steps of each window of `train`."""
    steps = [0, *(line['step'] for line in self.train)]
    return [b - a for a, b in zip(steps, steps[1:], strict=False)]

  @functools.cached_property
  def seconds(self) -> dict[str, float]:
    """Returns the seconds spent on each kind of work."""
    steps = sum(
      line.get('perf/step_time_s', 0.0) * count
      for line, count in zip(self.train, self.window_steps, strict=True)
    )
    # Every run has an evaluation before and after training.
    between = [x for x in self.evals if 0 < x['step'] < self.steps]
    return {
      'steps': steps,
      'compilation': sum(self.values('perf/compile_s')),
      'evaluations': sum(values(between, 'perf/evaluation_s')),
      'checkpoints': sum(self.values('perf/checkpoint_s')),
    }

  def share(self, name: str) -> float:
    """Returns a share of the steps' time over the whole run; 0 if unknown."""
    parts = [
      (line.get(name, 0.0), line.get('perf/step_time_s', 0.0) * count)
      for line, count in zip(self.train, self.window_steps, strict=True)
    ]
    total = sum(weight for _, weight in parts)
    return sum(x * weight for x, weight in parts) / total if total else 0.0

  @property
  def steps(self) -> int:
    """Returns the config's number of training steps."""
    return self.get('steps', 0)

  def get(self, path: str, default: Any = None) -> Any:
    """Returns a field of the config, such as 'data.template'."""
    value: Any = self.config
    for key in path.split('.'):
      if not isinstance(value, Mapping) or key not in value:
        return default
      value = value[key]
    return value

  @property
  def first_set(self) -> str | None:
    """Returns the first held-out set with an NLL, or else the first, if any."""
    names = sorted(self.get('evaluation.sets', {}))
    every = [*self.evaluations.values(), *filter(None, [self.teacher])]
    metrics = {name for result in every for name in result.metrics}
    measured = [x for x in names if f'eval/{x}/{measures.NLL}' in metrics]
    return next(iter([*measured, *names]), None)

  @property
  def last(self) -> results.Result | None:
    """Returns the student's last recorded evaluation after step 0."""
    steps = [step for step in self.evaluations if step]
    return self.evaluations[max(steps)] if steps else None

  @functools.cached_property
  def shared_prompts(self) -> dict[str, tuple[int, int]]:
    """Returns the number of held-out prompts trained on, and of all, by set.

    {} if the record is not thorough or the rows are not on this machine.
    """
    rows = self.run.get('rows', {})
    if not self.thorough or not rows:
      return {}
    try:
      trained = set()
      for task in rows['train']:
        trained |= _prompts(task['folder'], task['task'])
      counts = {}
      for name, folders in rows['held_out'].items():
        asked = set()
        for task, folder in folders.items():
          asked |= _prompts(folder, task)
        counts[name] = len(asked & trained), len(asked)
      return counts
    except (OSError, errors.KdError, ValueError, StopIteration, KeyError):
      return {}  # Deleted, or written by another version.

  @property
  def chip(self) -> chips.Slice | None:
    """Returns the TPU slice that the run used; None for other devices."""
    devices = self.run.get('devices', ())
    return chips.of_devices(self.run.get('device_kind', ''), len(devices))

  @functools.cached_property
  def parsed_config(self) -> ml_collections.ConfigDict | None:
    """Returns the recorded config; None if it cannot be parsed here."""
    try:
      return workdirs.recorded_config(self.workdir)
    except errors.KdError:
      return None

  @functools.cached_property
  def estimate(self) -> estimates.Estimate | None:
    """Returns the plan of the run by formula; None if it cannot be computed.

    It needs the headers of the weights that the config names.
    """
    count = len(self.run.get('devices', ()))
    chosen = self.chip or chips.Slice('', _ANY_TPU, max(count, 1))
    try:
      return suggestions.estimate(self.parsed_config, chosen)
    except (errors.KdError, OSError, ValueError, AttributeError):
      return None


def _prompts(folder: str, task: str) -> set[str]:
  """Returns the prompts of a task's prepared examples."""
  manifest = prepared.read_manifest(folder)
  counts = next(p for p in manifest['parts'] if p['task'] == task)
  examples = prepared.examples_of(folder, task, len(counts['shards']))
  return {source.prompt_key(example) for example in examples}


def read(workdir: str, thorough: bool = True) -> RunRecord:
  """Reads a workdir.

  Args:
    workdir: the folder of a run.
    thorough: see RunRecord.
  """
  folder = os.path.join(workdir, outputs.BASELINE)
  baseline = _read(folder, None, False) if os.path.isdir(folder) else None
  return _read(workdir, baseline, thorough)


def _read(workdir, baseline, thorough):
  files = run_files.RunFiles(workdir)
  files.refresh()
  train, evals = _lines(files)
  not_finite = files.end.get('code') == errors.NonFiniteError.exit_code
  origins = [
    _object(os.path.join(folder, nonfinite_origin.FILE))
    for folder in (workdir, os.path.join(workdir, outputs.BASELINE))
  ]
  teacher = results.read(evaluation_records.path(workdir, 'teacher'))
  return RunRecord(
    workdir=workdir,
    config=files.config,
    run=files.run,
    exit=files.end,
    status=status_lib.of(files, time.time(), in_bucket=False),
    train=train,
    evals=evals,
    evaluations=curves.evaluations(workdir),
    teacher=teacher and teacher[1],
    origin=next(filter(None, origins), {}) if not_finite else {},
    baseline=baseline,
    thorough=thorough,
  )


def _lines(files: run_files.RunFiles) -> tuple[list[Line], list[Line]]:
  """Returns the metrics of training and of evaluations, each by step."""
  training: dict[int, dict[str, float]] = {}
  evaluations: dict[int, dict[str, float]] = {}
  for name, series in files.series():
    if name.startswith(run_files.BASELINE):
      continue
    is_eval = name.startswith('eval/') or name == 'perf/evaluation_s'
    lines = evaluations if is_eval else training
    for step, value in zip(series.steps, series.values, strict=True):
      lines.setdefault(step, {'step': step})[name] = value
  return tuple(
    [lines[step] for step in sorted(lines)] for lines in (training, evaluations)
  )


def values(lines: Sequence[Line], name: str) -> list[float]:
  """Returns the finite values of a metric, in order."""
  known = [line[name] for line in lines if name in line]
  return [x for x in known if math.isfinite(x)]


def _object(path: str) -> dict[str, Any]:
  """Returns the object of a JSON file; {} if it is missing or damaged."""
  try:
    with open(path, encoding='utf-8') as f:
      value = json.load(f)
  except (OSError, ValueError, RecursionError):
    return {}
  return value if isinstance(value, dict) else {}
