"""Prints statistics and example rows of a run's data; does not train."""

import os
import sys
from typing import Any

import jax
import ml_collections

from kd.core import atomic_files
from kd.core import errors
from kd.core import folders
from kd.core import progress
from kd.input_pipeline import data_statistics
from kd.input_pipeline import encoding
from kd.input_pipeline import examples as examples_lib
from kd.input_pipeline import mixtures
from kd.input_pipeline import packing
from kd.input_pipeline import shown_rows
from kd.input_pipeline import skipping
from kd.run import resolve
from kd.run import resolved
from kd.run import session

FILE = 'data.json'
_ROWS = 3  # number of rows to show as text, over all sources
_KEPT = 64  # number of examples per source to pack into these rows
_WIDTH = 40  # characters of the longest bar
_WHOLE = 2**40  # positions, more than in any example


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Reads all examples, prints their statistics and writes data.json.

  Raises:
    ConfigError: the config or the data is wrong; names the field, or the file
      and line.
  """
  run = resolve.resolve(config, jax.devices())
  folders.check_writable(workdir, '--workdir')
  config = run.config
  data = config.data
  mixture = mixtures.training(config)
  trained = _read(run, mixture, data.split, data.examples, 'train')
  sets = {}
  for name, entry in sorted(config.evaluation.sets.items()):
    if entry.examples or entry.answers:
      mixture = mixtures.held_out(config, name)
      limits = (entry.examples, entry.answers)
      limit = -1 if -1 in limits else max(limits)
      sets[name] = _read(run, mixture, entry.split, limit, name)
  for line in _rows(run, trained):
    session.say(line)
  record = _record(run, trained, sets)
  for line in _lines(record):
    session.say(line)
  path = os.path.join(workdir, FILE)
  os.makedirs(workdir, exist_ok=True)
  atomic_files.write_json(path, record)
  session.say(f'written: {path}')


class _Source:
  """The examples of a task.

  Attributes:
    name: name of the task.
    statistics: statistics of its examples.
    kept: the first examples, encoded for rows.
    skipped: the invalid examples.
  """

  def __init__(self, name: str, encoder: encoding.Encoder, on_error: str):
    self.name = name
    self.statistics = data_statistics.Statistics(encoder)
    self.kept: list[packing.Example] = []
    self.skipped = skipping.collector(on_error)

  def counts(self, length: int) -> dict[str, Any]:
    """Returns the counts of data.json."""
    wrong = self.skipped.record() if self.skipped else {}
    return {**self.statistics.counts(length), 'skipped': wrong}


def _read(
  run: resolved.Run,
  mixture: mixtures.Mixture,
  split: str,
  limit: int,
  label: str,
) -> list[_Source]:
  """Reads and counts the examples of a mixture that a run would read."""
  data = run.config.data
  # Long examples are counted here even if training refuses them.
  long = 'chunk' if data.long == 'chunk' else 'drop'
  rest = (long, data.chunk_overlap)
  start = (run.tokenizer, data.template)
  encoder = encoding.Encoder(*start, data.length, *rest, run.image_form)
  whole = encoding.Encoder(*start, _WHOLE, *rest, run.image_form)
  sources = []
  with progress.Progress(f'reading {label}', session.say):
    for task, _ in examples_lib.tasks(mixture, split):
      source = _Source(task.name, encoder, data.on_error)
      for number, example in enumerate(
        examples_lib.stream(
          task,
          split,
          mixture.module,
          limit,
          session.say,
          source.skipped,
          mixture.urls,
        )
      ):
        (encoded,) = whole.encode(example, number)
        source.statistics.add(example, encoded)
        if number < _KEPT:
          source.kept += encoder.encode(example, number)
      sources.append(source)
  return sources


def _rows(run: resolved.Run, sources: list[_Source]) -> list[str]:
  """Formats the first rows of the sources, _ROWS in total, as text."""
  data = run.config.data
  color = sys.stdout.isatty()
  how = 'in color' if color else 'in [[brackets]]'
  lines = []
  for number, source in enumerate(sources[:_ROWS]):
    share = len(range(number, _ROWS, len(sources)))
    kept = source.kept
    sizes = [example.positions for example in kept]
    images = [len(example.images) for example in kept]
    most = data.images.per_row
    rows, _ = packing.assign(sizes, data.length, data.pack, images, most)
    for row in rows[:share]:
      examples = [kept[i] for i in row]
      used = sum(example.positions for example in examples)
      lines += [
        f'--- a row of {source.name}: {used:,} of {data.length:,} positions, '
        f'trained tokens {how}',
        shown_rows.text(examples, run.tokenizer, color),
        '',
      ]
  return lines


def _record(run, trained, sets) -> dict[str, Any]:
  """Returns the contents of data.json."""
  data = run.config.data
  length = data.length
  seed = run.config.seed if data.seed < 0 else data.seed
  statistics = [source.statistics for source in trained]
  lengths = [max(length // 4, 1), max(length // 2, 1), length, 2 * length]
  lengths = sorted({*lengths, 4 * length})
  prompts = set().union(*(s.prompts for s in statistics))
  held_out = {}
  for name, sources in sets.items():
    asked = set().union(*(s.statistics.prompts for s in sources))
    held_out[name] = {
      'sources': {s.name: s.counts(length) for s in sources},
      'prompts': len(asked),
      'prompts_also_trained_on': len(asked & prompts),
    }
  return {
    'mixture': mixtures.shown(data.mixture),
    'template': data.template,
    'length': length,
    'sources': {source.name: source.counts(length) for source in trained},
    'packing': [
      data_statistics.packing_at(statistics, n, data.pack, seed)
      for n in lengths
    ],
    'histograms': {
      source.name: data_statistics.histogram(source.statistics.lengths)
      for source in trained
    },
    'held_out': held_out,
  }


def _lines(record: dict[str, Any]) -> list[str]:
  """Formats the record as text."""
  lines = [_counts(name, c, record) for name, c in record['sources'].items()]
  for name, bins in record['histograms'].items():
    lines += ['', f'tokens per example of {name}:', *_bars(bins)]
  lines += ['', 'rows by data.length:']
  for at in record['packing']:
    mark = '  <- data.length' if at['length'] == record['length'] else ''
    lines.append(
      f'  {at["length"]:>9,}: {at["rows"]:,} rows, {at["fill"]:.0%} full, '
      f'{at["too_long"]:,} examples too long{mark}'
    )
  lines.append('')
  for name, entry in record['held_out'].items():
    for source, counts in entry['sources'].items():
      lines.append(f'{name}: {_counts(source, counts, record)}')
    both = entry['prompts_also_trained_on']
    warning = 'warning: ' if both else ''
    lines.append(
      f'{warning}{name}: {both:,} of {entry["prompts"]:,} prompts are also '
      'trained on'
    )
  return lines


def _counts(name, counts, record):
  line = (
    f'{name}: {counts["examples"]:,} examples, {counts["tokens"]:,} tokens, '
    f'{counts["supervised_tokens"]:,} of them supervised, '
    f'{counts["too_long"]:,} examples too long for {record["length"]:,}, '
    f'{counts["duplicates"]:,} duplicates, {counts["empty"]:,} empty'
  )
  if 'images' in counts:
    images = counts['images']
    small, large = (
      '{} x {}'.format(*images[k]) for k in ('smallest', 'largest')
    )
    line += f', {images["count"]:,} images of {small} to {large} pixels'
  skipped = counts['skipped']
  if skipped:
    first = '\n    '.join(skipped['first'][: errors.NAMED])
    line += f', {skipped["count"]:,} invalid and skipped:\n    {first}'
  return line


def _bars(bins):
  most = max((count for *_, count in bins), default=1)
  return [
    f'  {first:>9,} to {last:>9,}  {"#" * -(-count * _WIDTH // most)} {count:,}'
    for first, last, count in bins
  ]
