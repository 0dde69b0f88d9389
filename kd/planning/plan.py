"""--mode=plan: what a run needs on a TPU slice, found without one."""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
from typing import Any

import jax
import ml_collections

from kd.config import base
from kd.core import run_info
from kd.planning import advice
from kd.planning import chips
from kd.planning import compiler
from kd.planning import costs
from kd.planning import estimates
from kd.planning import libtpu
from kd.planning import picture
from kd.planning import programs
from kd.planning import search
from kd.planning import subject
from kd.planning import tables

RESULTS, TABLE, PICTURE = 'plan.json', 'plan.md', 'plan.png'


def say(line: str) -> None:
  print(line, flush=True)


def plan(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Compiles the run's programs, prints what they need, and writes it down.

  Raises:
    ConfigError: the config is wrong for the slice, or libtpu is missing.
    KdError: the compiler failed.
  """
  # Nothing runs: no accelerator of this machine is touched.
  jax.config.update('jax_platforms', 'cpu')
  config = base.checked(config)
  chosen = chips.parse(config.plan.topology)
  lengths = tuple(config.plan.lengths) or (config.data.length,)
  papers = [
    advice.estimate(subject.changed(config, {'data.length': length}), chosen)
    for length in lengths
  ]
  if config.plan.compile:
    libtpu.packages()
  if config.plan.search:
    for length in lengths:
      of_length = subject.changed(config, {'data.length': length})
      _search(of_length, chosen, workdir)
    return
  found, helps = [], []
  for paper, estimate in _estimates(config, chosen, papers):
    found.append(estimate)
    helps.append(_help(estimate))
    _write(workdir, tables.record(estimate, paper, helps[-1]))
  say('')
  say(tables.terminal(found, papers))
  for estimate, lines in zip(found, helps, strict=True):
    if estimate.refused:
      _advise(estimate, lines)
  say(_where(workdir))


def _estimates(config, chosen, papers):
  """Each estimate on paper with the one to tell: it, or the compiler's."""
  if not config.plan.compile:
    return zip(papers, papers, strict=True)
  return compiled(config, chosen, papers)


def _help(estimate):
  """What would make it fit; [] if it does."""
  if not estimate.refused:
    return []
  return advice.lines(subject.changed(estimate.run.config, {}), estimate)


def compiled(
  config: ml_collections.ConfigDict,
  chosen: chips.Slice,
  papers: Sequence[estimates.Estimate],
) -> Iterator[tuple[estimates.Estimate, estimates.Estimate]]:
  """Compiles the run's programs for the length of each estimate on paper.

  Yields:
    That estimate and the compiler's, once all its programs are compiled.

  Raises:
    KdError: see compiler.run.
  """
  by_length = {paper.run.config.data.length: paper for paper in papers}
  answers = {length: {} for length in by_length}
  for answer in compiler.run(config, chosen, list(by_length), None, say):
    paper, so_far = by_length[answer.length], answers[answer.length]
    run, wanted = paper.run, programs.of(paper.run)
    so_far[answer.program] = answer
    if len(so_far) == len(wanted):
      yield (
        paper,
        estimates.Estimate(
          run,
          chosen,
          estimates.COMPILER,
          paper.held,
          [costs.compiled(run, p, so_far[p.name]) for p in wanted],
        ),
      )


def _search(config, chosen, workdir):
  """Compiles the candidates that are best on paper, and ranks them."""
  ranked = search.ranked(config, chosen)
  say(f'{len(ranked)} ways fit on paper; trying the best')
  tried = []
  for candidate in ranked[: config.plan.compiled]:
    say(candidate.lines)
    changed = subject.changed(config, candidate.changes)
    # A candidate's own has the modules of its mesh's first way.
    whole = advice.estimate(changed, chosen)
    for paper, estimate in _estimates(changed, chosen, [whole]):
      tried.append((candidate, estimate))
      _write(workdir, tables.record(estimate, paper, _help(estimate)))
  say(f'\n{config.data.length:,} tokens a row on {chosen.name}')
  say(search.table(tried))
  say(_where(workdir))


def _advise(estimate, lines):
  length = estimate.run.config.data.length
  say(f'\n{length:,} tokens a row do not fit; what would help, on paper:')
  for line in lines:
    say(f'  {line}')
  for cost in estimate.costs:
    if cost.error:
      say(f'  the compiler of {cost.name}: {cost.error.splitlines()[0]}')


_KEY = (
  *('teacher', 'student', 'topology', 'length', 'batch_size'),
  *('micro_batches', 'remat', 'mesh', 'teacher_devices', 'teacher_mesh'),
)


def _write(workdir: str, row: Mapping[str, Any]) -> None:
  """Adds a row to the workdir's plan, in place of one of the same run.

  What was compiled is not replaced by what is on paper.
  """
  os.makedirs(workdir, exist_ok=True)
  path = os.path.join(workdir, RESULTS)
  rows = []
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      rows = json.load(f)
  same = lambda other: all(other[key] == row[key] for key in _KEY)
  known = [other for other in rows if same(other)]
  if all(other['source'] == estimates.PAPER for other in known) or (
    row['source'] == estimates.COMPILER
  ):
    rows = [other for other in rows if not same(other)] + [dict(row)]
  run_info.write_json(path, rows)
  run_info.write_text(os.path.join(workdir, TABLE), tables.markdown(rows))
  picture.draw(rows, os.path.join(workdir, PICTURE))


def _where(workdir):
  return '\n' + '\n'.join(
    os.path.join(workdir, name) for name in (RESULTS, TABLE, PICTURE)
  )


MODES = {'plan': plan}
