"""What a benchmark holds, and its files."""

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
SCHEMA = 1  # Raise it when a field of the JSON file changes its meaning.
_MODELS = 'models'

MODEL, TEACHER, BASELINE = 'model', 'teacher', 'baseline'


@dataclasses.dataclass(frozen=True)
class Entry:
  """One column of a benchmark.

  Attributes:
    title: of the column.
    places: where the models are, one for each seed.
    runs: the results, likewise.
    mean: of the runs, example by example.
    cost: of the first of them; None if it was not measured.
    weights: the digests of their weights, None where one is not known; () if
      no promotion depends on them.
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
    name: in evaluation.sets.
    identity: what its examples and their answers depend on.
    entries: the columns that were measured on the same examples.
    retention: the share of the teacher's quality, by slice and metric.
    verdict: None without a reference.
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
    name: of its folder.
    entries: the model, then the columns it is compared with.
    parts: by set.
    reference: the title of the column that the verdict compares with, or None.
    verdict: the overall one; None without a reference.
    settings: what some metrics depend on, see comparable.settings.
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
  """Removes benchmark.json, before the files that it refers to change."""
  with contextlib.suppress(FileNotFoundError):
    os.unlink(os.path.join(path, FILE))


def write(path: str, benchmark: Benchmark, fail_on: str) -> dict[str, Any]:
  """Writes benchmark.json and the results of all models.

  Args:
    path: the folder.
    benchmark: what is written; earlier benchmarks keep their own results.
    fail_on: the field benchmark.fail_on.

  Returns:
    What benchmark.json holds.
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
  # Last: its presence means that the benchmark is whole.
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
  """Returns value, interval and seeds of each metric of a column."""
  values = {}
  for measure in measures.of(entry.mean, set_name):
    value = measures.value(entry.mean, set_name, measure, entry.runs)
    name = f'eval/{set_name}/{measure.metric}'
    seeds = [run_info.json_number(run.metrics[name]) for run in entry.runs]
    values[measure.metric] = {'value': _triple(value), 'seeds': seeds}
  return values


def _triple(value) -> list[Any] | None:
  """Returns [value, low, high]; the bounds are None where there are none."""
  if value is None:
    return None
  if not isinstance(value, intervals.Interval):
    return [run_info.json_number(value), None, None]
  return [run_info.json_number(x) for x in (value.value, value.low, value.high)]


@dataclasses.dataclass(frozen=True)
class Earlier:
  """An earlier benchmark.

  Attributes:
    entry: its model.
    identities: of its sets.
    settings: what some of its metrics depend on.
  """

  entry: Entry
  identities: Mapping[str, Any]
  settings: Mapping[str, Any]


def read(folders: Sequence[str], field: str) -> list[Earlier]:
  """Reads the models of earlier benchmarks.

  Args:
    folders: their folders.
    field: the config field that names them.

  Raises:
    ConfigError: it holds no benchmark, or one of another version.
  """
  earlier = [_read(path, field) for path in folders]
  names = [x.entry.title for x in earlier]
  # Of one name, they are told apart by their number.
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
      field, f'{path!r} holds no {FILE}', legal='the folder of a benchmark'
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
      file, f'lacks what a benchmark has: {e}', legal='the file as written'
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
