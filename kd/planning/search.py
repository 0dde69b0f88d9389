"""Searches mesh, batch, micro-batches and remat for the most tokens per day."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import ml_collections

from kd.core import config as config_lib
from kd.core import errors
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning import planned_run
from kd.planning import suggestions
from kd.planning import tables
from kd.planning.cost import chips
from kd.planning.cost import costs
from kd.planning.cost import estimates
from kd.train.feeds import feed

# Offloading comes last: the formulas give its transfers to the host no time.
_REMATS = ('none', 'dots', 'block', 'block_offload')
_MICRO_BATCHES = (1, 2, 4, 8)
_BATCHES = (1, 2, 4)  # times the config's
# Every layer waits for sums over these axes: more chips never pay.
_MOST = {'tensor': 8, 'sequence': 8}
# HBM to spare, as a share: the formulas may be short of that.
_MARGIN = 0.1


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A way to run a config.

  Attributes:
    changes: values by the config's dotted paths.
    paper: its estimate.
  """

  changes: Mapping[str, Any]
  paper: estimates.Estimate

  @property
  def lines(self) -> str:
    """The flags to paste into a command."""
    return suggestions.flags(self.changes)


def meshes(count: int) -> Iterator[dict[str, int]]:
  """Returns every mesh of this many chips."""
  divisors = [n for n in range(1, count + 1) if count % n == 0]
  choices = [
    [n for n in divisors if n <= _MOST.get(axis, count)]
    for axis in mesh_lib.AXES
  ]
  for sizes in itertools.product(*choices):
    if math.prod(sizes) == count:
      yield dict(zip(mesh_lib.AXES, sizes, strict=True))


def _teacher_mesh(**sizes):
  """Returns values of teacher.mesh; without arguments, the student's mesh."""
  return {f'teacher.mesh.{axis}': sizes.get(axis, 0) for axis in mesh_lib.AXES}


def _placements(
  count: int, mesh: Mapping[str, int], own: int
) -> Iterator[dict[str, Any]]:
  """Yields ways to shard the teachers' parameters.

  Args:
    count: of chips.
    mesh: the student's.
    own: chips of the teachers' own; 0: they are on the student's.
  """
  placed = {'teacher.devices': own}
  if own:
    yield placed | _teacher_mesh(fsdp=own)
    return
  yield placed | _teacher_mesh()
  if mesh['fsdp'] < count:
    yield placed | _teacher_mesh(fsdp=count)


def _bases(config, count):
  """Yields every mesh of the student with every placement of the teachers."""
  live = bool(feed.source(config).teacher_specs())
  given = config_lib.flatten(config)
  # With the student, or on half of the chips: other shares leave numbers of
  # chips that batches do not divide.
  for own in sorted({0, count // 2 if live else 0}):
    for mesh in meshes(count - own):
      base = {f'mesh.{axis}': size for axis, size in mesh.items()}
      if not live:
        yield base
        continue
      for placement in _placements(count, mesh, own):
        # What the config says already need not be pasted.
        new = {k: v for k, v in placement.items() if given[k] != v}
        yield base | new


def _changes(config, base):
  micro_batches = sorted({*_MICRO_BATCHES, config.optimizer.micro_batches})
  remats = dict.fromkeys((*_REMATS, config.student.remat))
  for times, micro, remat in itertools.product(_BATCHES, micro_batches, remats):
    yield {
      **base,
      'data.batch_size': config.data.batch_size * times,
      'optimizer.micro_batches': micro,
      'student.remat': remat,
    }


def _on_mesh(config, chosen, base) -> Iterator[Candidate]:
  """Yields the ways on one mesh; what the run keeps is counted once."""
  whole = planned_run.changed(config, {**base, 'optimizer.micro_batches': 1})
  run = planned_run.on_paper(whole, chosen.count)
  held = costs.held(run)
  for changes in _changes(config, base):
    rows = changes['optimizer.micro_batches'] * rules.row_parts(run.mesh)
    if changes['data.batch_size'] % rows:
      continue
    changed = ml_collections.FrozenConfigDict(
      planned_run.changed(config, changes)
    )
    same = dataclasses.replace(run, config=changed)
    yield Candidate(changes, suggestions.on_paper(same, held, chosen))


def ranked(
  config: ml_collections.ConfigDict, chosen: chips.Slice
) -> list[Candidate]:
  """Returns the ways that fit by formula, the fastest first; see _order.

  Of several that agree in every printed figure, only the first is returned.

  Raises:
    ConfigError: nothing fits; the message has the way that needs least.
  """
  found, error = [], None
  for base in _bases(config, chosen.count):
    try:
      found += _on_mesh(config, chosen, base)
    except errors.ConfigError as e:
      error = e  # Heads or rows do not divide.
  if not found:
    raise error
  limit = (1 - _MARGIN) * chosen.chip.hbm_bytes
  fitting = [c for c in found if c.paper.total <= limit]
  if not fitting:
    least = min(found, key=lambda c: c.paper.total)
    raise errors.ConfigError(
      'plan.topology',
      f'nothing fits {chosen.name} by formula; the least is {least.lines}, '
      f'with {tables.gib(least.paper.total)} GiB per chip of '
      f'{tables.gib(chosen.chip.hbm_bytes)}',
      legal='a larger slice, a shorter data.length, a smaller teacher',
    )
  best = {}
  for candidate in sorted(fitting, key=_order):
    best.setdefault(_figures(candidate.paper), candidate)
  return list(best.values())


def _figures(estimate):
  """Returns the figures of an estimate as the table of a search prints them."""
  return (
    f'{estimate.limit.tokens_a_day:.3g}',
    f'{estimate.seconds:.3g}',
    f'{estimate.limit.mfu:.0%}',
    tables.gib(estimate.total),
  )


def _order(candidate):
  """Sorts by printed speed; where that is equal, by what paper knows least of.

  In this order: fewer devices in tensor (each layer waits for their sums), less
  network traffic per token, more rows per device and micro-batch, fewer bytes.
  """
  paper, shape = candidate.paper, candidate.paper.run.mesh.shape
  config = paper.run.config
  tokens = config.data.batch_size * config.data.length
  network = sum(cost.ici for cost in paper.step_costs) / tokens
  rows = config.data.batch_size / rules.row_parts(paper.run.mesh)
  rows /= config.optimizer.micro_batches
  speed = float(f'{paper.limit.tokens_a_day:.3g}')
  return -speed, shape['tensor'], float(f'{network:.3g}'), -rows, paper.total


def table(
  tried: Sequence[tuple[Candidate, estimates.Estimate]],
) -> str:
  """Returns the compiled candidates, the best first, with flags to paste."""
  order = sorted(
    tried, key=lambda t: (bool(t[1].refused), -t[1].limit.tokens_a_day)
  )
  lines = [
    f'{"":4}{"tokens per day":>16}{"step, s":>10}{"MFU":>6}{"GiB":>8}'
    f'{"by formula":>12}  fits'
  ]
  for place, (candidate, estimate) in enumerate(order, 1):
    tokens, seconds, mfu, size = _figures(estimate)
    lines += [
      f'{place:>2}. {tokens:>16}{seconds:>10}{mfu:>6}{size:>8}'
      f'{tables.gib(candidate.paper.total):>12}'
      f'  {"no" if estimate.refused else "yes"}',
      f'    {candidate.lines}',
    ]
  return '\n'.join(lines)
