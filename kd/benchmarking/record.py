"""The results of a benchmark and their files."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import os
from typing import Any

from kd.benchmarking import cost as cost_lib
from kd.benchmarking import measuring
from kd.benchmarking import slices
from kd.benchmarking import verdicts
from kd.core import atomic_files
from kd.core import errors
from kd.core import json_files
from kd.core import paths
from kd.core import run_info
from kd.evaluation import calibration
from kd.evaluation import intervals
from kd.evaluation import measures
from kd.evaluation import results

FOLDER, FILE, PAGE = 'benchmarks', 'benchmark.json', 'benchmark.md'
SCHEMA = 1  # Increment when a field of the JSON file changes its meaning.
_MODELS = 'models'

MODEL, TEACHER, BASELINE = 'model', 'teacher', 'baseline'


@dataclasses.dataclass(frozen=True)
class Entry:
  """One column of a benchmark.

  Attributes:
    title: title of the column.
    places: locations of the models, one for each seed.
    runs: results, one for each seed.
    mean: mean of the results, example by example.
    cost: cost of the first model; None if not measured.
    weights: digests of the models' weights, None for unknown ones; () if they
      are not needed for promotion.
  """

  title: str
  places: Sequence[str]
  runs: Sequence[results.Result]
  mean: results.Result
  cost: cost_lib.Cost | None
  weights: Sequence[str | None] = ()


@dataclasses.dataclass(frozen=True)
class Part:
  """One set of a benchmark.

  Attributes:
    name: name in evaluation.sets.
    identity: inputs that determine its examples and answers; see comparable.
    entries: the columns that were measured on the same examples.
    retention: share of the teacher's quality, by slice and metric.
    verdict: the verdict on the set; None without a reference.
  """

  name: str
  identity: Mapping[str, Any]
  entries: Sequence[Entry]
  retention: Sequence[tuple[slices.Slice, dict[str, intervals.Interval | None]]]
  verdict: verdicts.Verdict | None


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A benchmark of one model.

  Attributes:
    name: name of the benchmark's folder.
    entries: the column of the model, then those to compare it with.
    parts: one part for each set.
    reference: title of the verdict's reference column, or None.
    verdict: the overall verdict; None without a reference.
    settings: settings that affect some metrics; see comparable.settings.
  """

  name: str
  entries: Sequence[Entry]
  parts: Sequence[Part]
  reference: str | None
  verdict: str | None
  settings: Mapping[str, Any]


def folder(workdir: str, name: str) -> str:
  """Returns the folder of a benchmark."""
  return os.path.join(workdir, FOLDER, name)


def remove(path: str) -> None:
  """Removes benchmark.json; call before changing the files it refers to."""
  with contextlib.suppress(FileNotFoundError):
    os.unlink(os.path.join(path, FILE))


def write(path: str, benchmark: Benchmark, fail_on: str) -> dict[str, Any]:
  """Writes benchmark.json and the results of all models.

  Args:
    path: folder of the benchmark.
    benchmark: the benchmark; results of earlier benchmarks are not written.
    fail_on: value of benchmark.fail_on.

  Returns:
    The contents of benchmark.json.
  """
  files: dict[str, list[str]] = {}
  for entry in benchmark.entries:
    if entry.title not in (MODEL, TEACHER, BASELINE):
      continue
    for number, result in enumerate(entry.runs):
      name = f'{_MODELS}/{entry.title}_{number}.json'
      results.write(os.path.join(path, name), result)
      files.setdefault(entry.title, []).append(name)
  fields = {
    'schema': SCHEMA,
    'name': benchmark.name,
    'verdict': benchmark.verdict,
    'reference': benchmark.reference,
    'fail_on': fail_on,
    'date': run_info.now(),
    **run_info.collect(),
    'models': {x.title: list(x.places) for x in benchmark.entries},
    'weights': {x.title: list(x.weights) for x in benchmark.entries},
    'files': files,
    'settings': benchmark.settings,
    'sets': {part.name: _part_json(part) for part in benchmark.parts},
    'cost': {
      x.title: cost_lib.as_json(x.cost) for x in benchmark.entries if x.cost
    },
  }
  # Written last, as it marks the benchmark as complete.
  atomic_files.write_json(os.path.join(path, FILE), fields)
  return fields


def _part_json(part) -> dict[str, Any]:
  fields = {
    'identity': part.identity,
    'counts': measures.counts(part.entries[0].mean, part.name),
    'verdict': None,
    'measures': {x.title: _values(x, part.name) for x in part.entries},
    'calibration': {
      x.title: [
        bin_ and dataclasses.asdict(bin_)
        for bin_ in calibration.bins(x.mean.scores[part.name])
      ]
      for x in part.entries
      if calibration.is_in(x.mean.scores[part.name])
    },
    'retention': [
      {
        'field': slice_.field,
        'value': slice_.value,
        'rows': len(slice_.rows),
        'answers': len(slice_.answers),
        **{name: _triple(share) for name, share in shares.items()},
      }
      for slice_, shares in part.retention
    ],
  }
  if part.verdict:
    verdict = part.verdict
    fields['verdict'] = {
      'verdict': verdict.verdict,
      'metric': verdict.measure.metric,
      'difference': _triple(verdict.difference),
      'margin': verdict.margin,
      'seeds': list(verdict.seeds),
    }
  return fields


def _values(entry, set_name) -> dict[str, Any]:
  """Returns the value, interval and seeds of each metric of a column."""
  values = {}
  for measure in measures.of(entry.mean, set_name):
    value = measures.value(entry.mean, set_name, measure, entry.runs)
    name = f'eval/{set_name}/{measure.metric}'
    seeds = [run_info.json_number(run.metrics[name]) for run in entry.runs]
    values[measure.metric] = {'value': _triple(value), 'seeds': seeds}
  return values


def _triple(value) -> list[Any] | None:
  """Returns [value, low, high]; bounds are None without an interval."""
  if value is None:
    return None
  if not isinstance(value, intervals.Interval):
    return [run_info.json_number(value), None, None]
  return [run_info.json_number(x) for x in (value.value, value.low, value.high)]


@dataclasses.dataclass(frozen=True)
class Earlier:
  """An earlier benchmark.

  Attributes:
    entry: the column of its model.
    identities: identities of its sets, by name.
    settings: settings that affect some of its metrics.
  """

  entry: Entry
  identities: Mapping[str, Any]
  settings: Mapping[str, Any]


def read(folders: Sequence[str], field: str) -> list[Earlier]:
  """Reads the models of earlier benchmarks.

  Args:
    folders: folders of the benchmarks.
    field: config field that contains the folders.

  Raises:
    ConfigError: a folder has no benchmark, or one of another version.
  """
  earlier = [_read(path, field) for path in folders]
  names = [x.entry.title for x in earlier]
  # Benchmarks with the same name are numbered.
  return [
    one
    if names.count(name) == 1
    else dataclasses.replace(
      one,
      entry=dataclasses.replace(one.entry, title=f'{name} ({number})'),
    )
    for number, (one, name) in enumerate(zip(earlier, names, strict=True), 1)
  ]


def _read(path, field) -> Earlier:
  where = paths.expand(path)
  file = os.path.join(where, FILE)
  if not os.path.isfile(file):
    raise errors.ConfigError(
      field, f'{path!r} contains no {FILE}', legal='the folder of a benchmark'
    )
  fields = json_files.read(file)
  try:
    if fields['schema'] != SCHEMA:
      raise json_files.unexpected(
        f'{file}: schema', fields['schema'], str(SCHEMA)
      )
    names = fields['files'][MODEL]
    identities = {k: x['identity'] for k, x in fields['sets'].items()}
    settings = dict(fields.get('settings', {}))
    cost = fields['cost'].get(MODEL)
    entry_cost = cost and cost_lib.from_json(cost)
    title, places = f'earlier: {fields["name"]}', fields['models'][MODEL]
  except (KeyError, TypeError, AttributeError) as e:
    raise errors.ConfigError(
      file,
      f'is not a valid benchmark: {type(e).__name__}: {e}',
      legal='the file as written',
    ) from e
  runs = [results.read(os.path.join(where, name)) for name in names]
  if not runs or None in runs:
    raise errors.ConfigError(
      field,
      f'{path!r}: the results of its models are missing or damaged',
      legal='the folder as it was written',
    )
  measured = [result for _, result in runs]
  entry = Entry(title, places, measured, measuring.mean(measured), entry_cost)
  return Earlier(entry, identities, settings)
