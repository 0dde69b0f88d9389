"""Runs benchmarks: measures and compares models, and writes the results."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

import ml_collections

from kd.benchmarking import comparable
from kd.benchmarking import cost as cost_lib
from kd.benchmarking import measuring
from kd.benchmarking import models
from kd.benchmarking import page
from kd.benchmarking import pictures
from kd.benchmarking import record
from kd.benchmarking import slices
from kd.benchmarking import verdicts
from kd.config import rules
from kd.core import errors
from kd.core import progress
from kd.partitioning import processes
from kd.run import any_model
from kd.teachers import host_weights
from kd.teachers import live
from kd.train import evaluate
from kd.train.feeds import feed
from kd.train.feeds import live as live_feed

# Values of benchmark.reference.
REFERENCES = ('auto', 'earlier', record.BASELINE, record.TEACHER, 'none')


@dataclasses.dataclass(frozen=True)
class _Teachers:
  """The loaded teachers.

  Attributes:
    loaded: teachers with parameters; () without a teacher.
  """

  loaded: Sequence[live.Teacher]

  def targets_on(self, opened: models.Opened) -> feed.LiveTargets | None:
    """Returns a function that maps a batch to targets on a model's mesh."""
    if not self.loaded:
      return None
    return live_feed.targets_on(opened.run, self.loaded, opened.model.mesh)


@dataclasses.dataclass(frozen=True)
class _Models:
  """The models to measure.

  Attributes:
    seeds: the model, once for each seed.
    baseline: the baseline given by benchmark.baseline, or ().
    owns_baselines: whether the baselines are those of the seeds' runs.
  """

  seeds: Sequence[models.Opened]
  baseline: Sequence[models.Opened]
  owns_baselines: bool

  @property
  def titles(self) -> list[str]:
    """Returns the titles of the columns to measure."""
    titles = [record.MODEL]
    if self.seeds[0].run.teachers:
      titles.append(record.TEACHER)
    if self.baseline or self.owns_baselines:
      titles.append(record.BASELINE)
    return titles


def run(
  config: ml_collections.ConfigDict,
  workdir: str,
  places: Sequence[str],
  say: progress.Say,
) -> dict[str, Any]:
  """Benchmarks a model.

  Args:
    config: the config of the benchmark.
    workdir: parent of the folder `benchmarks` for the results.
    places: location of the model, or of several that differ only in their seed.
    say: prints lines of progress and the result.

  Returns:
    The contents of benchmark.json.

  Raises:
    ConfigError: a model, a set or an earlier benchmark is missing, or they are
      not compatible.
  """
  rules.check(config)
  if not config.evaluation.sets:
    raise errors.ConfigError(
      'evaluation.sets', 'found {}', legal='a set to measure on'
    )
  earlier = record.read(config.benchmark.earlier, 'benchmark.earlier')
  chosen = _open(config, places)
  first = chosen.seeds[0]
  reference = _reference(config.benchmark.reference, chosen.titles, earlier)
  _check_reference(config.benchmark.reference, reference)
  compared = [x for x in earlier if x.entry.title == reference]
  for one in compared:
    verdicts.check_metric(one.entry.runs, config.benchmark.metric)
  # Measured first, as its memory includes everything loaded before.
  params = first.params()
  cost = cost_lib.measure(first, params, say)
  held_out = evaluate.prepare_sets(first.run, say)
  identities = {x.name: comparable.identity(first, x) for x in held_out}
  comparable.check([*chosen.seeds, *chosen.baseline], identities, earlier)
  for one in held_out:
    slices.check_fields(first.run, one)
  teachers = _Teachers(live_feed.load(first.run) if first.run.teachers else ())
  settings = comparable.settings(first, teachers.loaded)
  earlier = [comparable.without_others(x, settings) for x in earlier]
  compared = [x for x in earlier if x.entry.title == reference]

  def measure(opened, params):
    targets = teachers.targets_on(opened)
    say(f'measuring {opened.place}')
    return measuring.measure(opened, params, targets, held_out, say)

  runs, weights = [measure(first, params)], [first.weights(params)]
  del params
  if reference:
    # Checked before the other measurements, which may take hours.
    _check_metric(config.benchmark.metric, runs, identities, compared)
  for other in chosen.seeds[1:]:
    params = other.params()
    runs.append(measure(other, params))
    weights.append(other.weights(params))
    del params
  places = [x.place for x in chosen.seeds]
  entries = [_entry(record.MODEL, places, runs, cost, weights)]
  if teachers.loaded:
    entries.append(_teacher(first, teachers, measure, say))
  places = [x.place for x in chosen.baseline]
  baselines = [measure(x, x.params()) for x in chosen.baseline]
  if chosen.owns_baselines:
    places = [str(x.baseline_folder) for x in chosen.seeds]
    baselines = [measure(x, x.baseline_params()) for x in chosen.seeds]
  if baselines:
    entries.append(_entry(record.BASELINE, places, baselines, None))
  benchmark = _compare(
    *(first, held_out, identities, settings, entries, earlier, reference),
    chosen.owns_baselines,
  )
  return processes.from_first(lambda: _write(benchmark, config, workdir, say))


def _entry(title, places, runs, cost, weights=()):
  mean = measuring.mean(runs)
  return record.Entry(title, places, runs, mean, cost, weights)


def _open(config, places) -> _Models:
  """Resolves all models without loading them."""
  seeds = [models.open_model(config, place) for place in places]
  if config.benchmark.baseline:
    place = config.benchmark.baseline
    return _Models(seeds, [models.open_model(config, place)], False)
  owned = [x.baseline_folder is not None for x in seeds]
  return _Models(seeds, (), all(owned))


def _check_reference(name, reference) -> None:
  """Raises ConfigError if the requested reference does not exist."""
  if name in (record.BASELINE, record.TEACHER) and not reference:
    raise errors.ConfigError(
      'benchmark.reference',
      f'found {name!r}, but the benchmark has no such model',
      legal='auto, none, or a config or run that has one',
    )


def _check_metric(name, runs, identities, compared) -> None:
  """Raises ConfigError unless all compared sets have the verdict's metric."""
  for set_name in identities:
    there = [
      x for x in compared if set_name in comparable.same_sets(identities, x)
    ]
    if compared and not there:
      continue  # No verdict on this set.
    others = [run for x in there for run in x.entry.runs]
    verdicts.measure_of(runs, others, set_name, name)


def _teacher(first, teachers, measure, say) -> record.Entry:
  """Measures the first teacher."""
  init = first.run.teacher.init
  kind, where = any_model.locate(init)
  opened = models.Opened(init, kind, where, first.run, first.run.teacher)
  params = host_weights.to_device(teachers.loaded[0].params)
  cost = cost_lib.measure(opened, params, say)
  return _entry(record.TEACHER, [init], [measure(opened, params)], cost)


def _compare(
  first: models.Opened,
  held_out: Sequence[evaluate.HeldOut],
  identities: Mapping[str, Any],
  settings: Mapping[str, Any],
  entries: list[record.Entry],
  earlier: Sequence[record.Earlier],
  reference: str | None,
  paired_baseline: bool,
) -> record.Benchmark:
  """Returns the benchmark, with a verdict for each set."""
  fields = first.run.config.benchmark
  every = [*entries, *(x.entry for x in earlier)]
  paired = paired_baseline and reference == record.BASELINE
  by_title = {x.title: x for x in entries}
  teacher = by_title.get(record.TEACHER)
  parts = []
  for one in held_out:
    known = [
      x.entry
      for x in earlier
      if one.name in comparable.same_sets(identities, x)
    ]
    there = [*entries, *known]
    verdict = _verdict(fields, one.name, there, reference, paired)
    retention = _retention(first, one, entries[0].mean, teacher)
    parts.append(
      record.Part(one.name, identities[one.name], there, retention, verdict)
    )
  said = [part.verdict for part in parts if part.verdict]
  return record.Benchmark(
    fields.name, every, parts, reference, verdicts.overall(said), settings
  )


def _reference(name, titles, earlier) -> str | None:
  """Returns the column title for benchmark.reference; None without one."""
  if name == 'none':
    return None
  if name == 'earlier' or (name == 'auto' and earlier):
    return earlier[0].entry.title
  if name == 'auto':
    name = record.BASELINE
  return name if name in titles else None


def _verdict(fields, set_name, entries, reference, paired):
  other = next((x for x in entries if x.title == reference), None)
  if other is None:
    return None
  return verdicts.decide(
    verdicts.measure_of(entries[0].runs, other.runs, set_name, fields.metric),
    set_name,
    entries[0].runs,
    other.runs,
    paired,
    fields.margin,
  )


def _retention(first, held_out, mean, teacher):
  if teacher is None:
    return []
  compared = slices.compared(mean, held_out.name)
  return [
    (
      part,
      {
        m.metric: slices.retained(mean, teacher.mean, held_out.name, m, part)
        for m in compared
      },
    )
    for part in slices.of(first.run, held_out, mean)
  ]


def _write(benchmark, config, workdir, say) -> dict[str, Any]:
  """Writes all files and prints the verdict."""
  path = record.folder(workdir, config.benchmark.name)
  record.remove(path)
  os.makedirs(path, exist_ok=True)
  fields = config.benchmark
  drawn = pictures.draw(path, benchmark)
  page.write(path, benchmark, drawn)
  written = record.write(path, benchmark, fields.fail_on)
  for line in page.lines(benchmark):
    say(line)
  say(f'benchmark: {os.path.join(path, record.PAGE)}')
  return written
