"""Writes benchmark.md."""

from collections.abc import Mapping, Sequence
import os

from kd.benchmarking import cost as cost_lib
from kd.benchmarking import record
from kd.core import atomic_files
from kd.evaluation import measures
from kd.evaluation import results
from kd.evaluation import side_by_side
from kd.evaluation import table
from kd.train import report

_MIB = 2**20


def lines(benchmark: record.Benchmark) -> list[str]:
  """Returns a line with the overall verdict and one for each set."""
  if benchmark.reference is None:
    return ['verdict: none, since there is nothing to compare with']
  head = f'verdict: {benchmark.verdict}, compared with {benchmark.reference}'
  return [head, *map(_verdict_line, benchmark.parts)]


def _verdict_line(part: record.Part) -> str:
  verdict = part.verdict
  if verdict is None:
    return f'{part.name}: not compared: the reference has different examples'
  difference = verdict.difference
  line = (
    f'{part.name}: {verdict.verdict}: {verdict.measure.title} differs by '
    f'{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]'
  )
  if verdict.margin:
    line += f', with a margin of {verdict.margin:g}'
  own, others = verdict.seeds
  if own > 1 or others > 1:
    return f'{line}, over the examples and {own} and {others} seeds'
  return (
    f'{line}, over the examples; one seed, so the variation between seeds is '
    'unknown'
  )


def write(
  path: str, benchmark: record.Benchmark, pictures: Sequence[str]
) -> None:
  """Writes the page.

  Args:
    path: folder of the benchmark.
    benchmark: the benchmark.
    pictures: file names of the pictures in the folder.
  """
  head, *by_set = lines(benchmark)
  blocks = [
    f'# Benchmark {benchmark.name}',
    f'**{head[0].upper()}{head[1:]}.**',
    '\n'.join(f'- {line}' for line in by_set),
    '\n'.join(
      f'- {entry.title}: {", ".join(f"`{x}`" for x in entry.places)}'
      for entry in benchmark.entries
    ),
  ]
  for part in benchmark.parts:
    blocks += _set_blocks(part)
  costs = {x.title: x.cost for x in benchmark.entries if x.cost}
  blocks += ['## Cost', _memory_table(costs)]
  if any(cost.timings for cost in costs.values()):
    blocks += [_timing_table(costs), _cost_note(costs)]
  blocks += [f'![{os.path.splitext(x)[0]}]({x})' for x in pictures]
  text = '\n\n'.join(block.strip('\n') for block in blocks if block)
  atomic_files.write_text(os.path.join(path, record.PAGE), text + '\n')


def _set_blocks(part: record.Part) -> list[str]:
  columns = {x.title: x.mean for x in part.entries}
  counts = measures.counts(part.entries[0].mean, part.name)
  sizes = ', '.join(f'{v:,} {k.replace("_", " ")}' for k, v in counts.items())
  gap = (record.MODEL, record.BASELINE, record.TEACHER)
  seeds = {x.title: x.runs for x in part.entries}
  rendered = report.set_table(columns, part.name, gap, seeds)
  blocks = [f'## {part.name}: {sizes}', table.markdown(rendered)]
  blocks.append(_seeds(part))
  if part.retention:
    blocks += ['### Share of the teacher', _retention_table(part)]
  blocks += _examples(columns, part.name)
  return blocks


def _seeds(part: record.Part) -> str:
  """Returns the values of each seed, for columns with several seeds."""
  by_seed = []
  for entry in part.entries:
    if len(entry.runs) < 2:
      continue
    for measure in measures.of(entry.mean, part.name):
      if measure.is_main:
        name = f'eval/{part.name}/{measure.metric}'
        values = ', '.join(f'{run.metrics[name]:.4f}' for run in entry.runs)
        by_seed.append(f'- {entry.title}, {measure.title}, by seed: {values}')
  return '\n'.join(by_seed)


def _retention_table(part: record.Part) -> str:
  _, shares = part.retention[0]
  titles = {
    m.metric: m.title for m in measures.of(part.entries[0].mean, part.name)
  }
  columns = [titles[name].split(',')[0] for name in shares]
  rows = [
    table.TableRow(
      f'{slice_.title} ({len(slice_.rows):,})', list(by_metric.values()), 3
    )
    for slice_, by_metric in part.retention
  ]
  notes = [
    '1 is as good as the teacher. NLL: the ratio of the perplexities; others: '
    'the ratio of the scores. Brackets: over examples. In parentheses: scored '
    'rows.'
  ]
  return table.markdown(table.Table(columns, rows, notes))


def _examples(
  columns: Mapping[str, results.Result], set_name: str
) -> list[str]:
  answers = {
    title: [x for x in result.answers if x['set'] == set_name]
    for title, result in columns.items()
  }
  if not answers[record.MODEL]:
    return []
  chosen = side_by_side.choose(answers, record.MODEL)
  return ['### Some answers', *map(side_by_side.block, chosen)]


def _cost_note(costs: Mapping[str, cost_lib.Cost]) -> str:
  counts = [t.measured for cost in costs.values() for t in cost.timings]
  numbers = []
  for name, title in _MEASURED.items():
    known = sorted({count[name] for count in counts if name in count})
    if known:
      numbers.append(f'{title} {" or ".join(map(str, known))}')
  if not numbers:
    return _COST_NOTE
  return (
    f'{_COST_NOTE} Numbers of measurements: {", ".join(numbers)}. With few '
    'measurements, the 95th and 99th percentiles are close to the maximum.'
  )


_MEASURED = {
  'first_token': 'first token',
  'per_token': 'each later token',
  'whole': 'throughput',
}
_COST_NOTE = (
  'Prompts are random, and all answers have the same length. The first token '
  'and each later one are timed as they arrive at the host, one at a time; '
  'tokens and requests per second are of whole batches, 16 tokens at a time. '
  'The model is measured first, so its peak memory includes no other model.'
)


def _memory_table(costs: Mapping[str, cost_lib.Cost]) -> str:
  mib = lambda x: None if x is None else x / _MIB
  fields = (
    ('parameters, millions', lambda c: c.parameters / 1e6),
    ('parameters in memory, MiB', lambda c: mib(c.parameter_bytes)),
    ('weights on disk, MiB', lambda c: mib(c.disk_bytes)),
    (
      'peak memory of the process so far, MiB',
      lambda c: mib(c.host_peak_bytes),
    ),
    (
      'peak memory of a device so far, MiB',
      lambda c: mib(c.device_peak_bytes),
    ),
  )
  rows = [
    table.TableRow(name, [read(c) for c in costs.values()], 2)
    for name, read in fields
    if any(read(c) is not None for c in costs.values())
  ]
  return table.markdown(table.Table(list(costs), rows))


def _timing_table(costs: Mapping[str, cost_lib.Cost]) -> str:
  rows = []
  for (batch_size, length), timings in cost_lib.by_size(costs).items():
    for title, timing in timings.items():
      size = f'batch {batch_size}, prompt {length}'
      latencies = [
        1e3 * seconds
        for by_percentile in (timing.first_token_s, timing.per_token_s)
        for seconds in by_percentile.values()
      ]
      cells = [*latencies, timing.tokens_per_s, timing.requests_per_s]
      rows.append(table.TableRow(f'{size}: {title}', cells, 2))
  percentiles = [f'p{p}' for p in cost_lib.PERCENTILES]
  columns = [
    f'{what} {p}, ms' for what in ('first token', 'token') for p in percentiles
  ]
  return table.markdown(table.Table([*columns, 'tokens/s', 'requests/s'], rows))
