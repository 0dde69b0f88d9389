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
from kd.run import source

# Offloading is last because the formulas ignore the time of its transfers.
_REMATS = ('none', 'dots', 'block', 'block_offload')
_MICRO_BATCHES = (1, 2, 4, 8)
_BATCHES = (1, 2, 4)  # multiples of the config's batch size
# Every layer waits for sums over these axes, so larger ones never pay off.
# Stages of the pipeline wait for each other.
_MAX_AXIS = {'tensor': 8, 'sequence': 8, 'pipeline': 8}
# Fraction of HBM left free, since the formulas may underestimate by this much.
_MARGIN = 0.1


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A candidate configuration of a run.

  Attributes:
    changes: new values by dotted field of the config.
    estimate: the estimate by formula.
  """

  changes: Mapping[str, Any]
  estimate: estimates.Estimate

  @property
  def flags(self) -> str:
    """Returns the flags to paste into a command."""
    return suggestions.flags(self.changes)


def meshes(count: int) -> Iterator[dict[str, int]]:
  """Yields every mesh of `count` chips."""
  divisors = [n for n in range(1, count + 1) if count % n == 0]
  choices = [
    [n for n in divisors if n <= _MAX_AXIS.get(axis, count)]
    for axis in mesh_lib.AXES
  ]
  for sizes in itertools.product(*choices):
    if math.prod(sizes) == count:
      yield dict(zip(mesh_lib.AXES, sizes, strict=True))


def _teacher_mesh(**sizes):
  """Returns the fields of teacher.mesh; the default is the student's mesh."""
  return {f'teacher.mesh.{axis}': sizes.get(axis, 0) for axis in mesh_lib.AXES}


def _placements(
  count: int, mesh: Mapping[str, int], reserved: int
) -> Iterator[dict[str, Any]]:
  """Yields config changes that place and shard the teachers' parameters.

  Args:
    count: number of chips.
    mesh: the student's mesh.
    reserved: number of chips reserved for the teachers; 0: they share the
      student's chips.
  """
  placed = {'teacher.devices': reserved}
  if reserved:
    yield placed | _teacher_mesh(fsdp=reserved)
    return
  yield placed | _teacher_mesh()
  if mesh['fsdp'] < count:
    yield placed | _teacher_mesh(fsdp=count)


def _bases(config, count):
  """Yields each student mesh combined with each placement of the teachers."""
  live = bool(source.of(config).teacher_specs())
  given = config_lib.flatten(config)
  # The teachers share all chips or get half of them: other fractions leave
  # numbers of chips that do not divide the batch.
  for reserved in sorted({0, count // 2 if live else 0}):
    for mesh in meshes(count - reserved):
      base = {f'mesh.{axis}': size for axis, size in mesh.items()}
      if given['mesh.pipeline_micro_batches']:
        # The config's value was chosen for another mesh.
        base['mesh.pipeline_micro_batches'] = 0
      if not live:
        yield base
        continue
      for placement in _placements(count, mesh, reserved):
        # Flags that equal the config are left out.
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
  """Yields the candidates of one mesh; counts its resident memory once."""
  whole = planned_run.changed(config, {**base, 'optimizer.micro_batches': 1})
  run = planned_run.on_abstract_mesh(whole, chosen.count)
  resident = costs.resident_memory(run)
  for changes in _changes(config, base):
    rows = changes['optimizer.micro_batches'] * rules.row_shards(run.mesh)
    if changes['data.batch_size'] % rows:
      continue
    changed = ml_collections.FrozenConfigDict(
      planned_run.changed(config, changes)
    )
    same = dataclasses.replace(run, config=changed)
    yield Candidate(changes, suggestions.by_formula(same, resident, chosen))


def ranked(
  config: ml_collections.ConfigDict, chosen: chips.Slice
) -> list[Candidate]:
  """Returns the candidates that fit by formula, fastest first; see _order.

  If several agree in every printed figure, only the first is returned.

  Raises:
    ConfigError: nothing fits; the message has the smallest candidate.
  """
  candidates, error = [], None
  for base in _bases(config, chosen.count):
    try:
      candidates += _on_mesh(config, chosen, base)
    except errors.ConfigError as e:
      error = e  # Heads or rows are not divisible.
  if not candidates:
    raise error
  limit = (1 - _MARGIN) * chosen.chip.hbm_bytes
  fitting = [c for c in candidates if c.estimate.total <= limit]
  if not fitting:
    least = min(candidates, key=lambda c: c.estimate.total)
    raise errors.ConfigError(
      'plan.topology',
      f'nothing fits {chosen.name} by formula; the least is {least.flags}, '
      f'with {tables.gib(least.estimate.total)} GiB per chip of '
      f'{tables.gib(chosen.chip.hbm_bytes)}',
      legal='a larger slice, a shorter data.length, a smaller teacher',
    )
  best = {}
  for candidate in sorted(fitting, key=_order):
    best.setdefault(_figures(candidate.estimate), candidate)
  return list(best.values())


def _figures(estimate):
  """Returns the figures of an estimate as the table prints them."""
  return (
    f'{estimate.limit.tokens_a_day:.3g}',
    f'{estimate.seconds:.3g}',
    f'{estimate.limit.mfu:.0%}',
    tables.gib(estimate.total),
  )


def _order(candidate):
  """Returns the sort key of a candidate: printed speed, then tie-breakers.

  Ties are broken by what the formulas model least well: fewer devices on the
  tensor axis (each layer waits for their sums), less network traffic per token,
  more rows per device and micro-batch, less memory.
  """
  analytic, shape = candidate.estimate, candidate.estimate.run.mesh.shape
  config = analytic.run.config
  tokens = config.data.batch_size * config.data.length
  network = sum(cost.ici for cost in analytic.step_costs) / tokens
  rows = config.data.batch_size / rules.row_shards(analytic.run.mesh)
  rows /= config.optimizer.micro_batches
  speed = float(f'{analytic.limit.tokens_a_day:.3g}')
  return -speed, shape['tensor'], float(f'{network:.3g}'), -rows, analytic.total


def table(
  tried: Sequence[tuple[Candidate, estimates.Estimate]],
) -> str:
  """Formats the compiled candidates, best first, with flags to paste."""
  order = sorted(
    tried, key=lambda t: (bool(t[1].does_not_fit), -t[1].limit.tokens_a_day)
  )
  lines = [
    f'{"":4}{"tokens per day":>16}{"step, s":>10}{"MFU":>6}{"GiB":>8}'
    f'{"by formula":>12}  fits'
  ]
  for rank, (candidate, estimate) in enumerate(order, 1):
    tokens, seconds, mfu, size = _figures(estimate)
    lines += [
      f'{rank:>2}. {tokens:>16}{seconds:>10}{mfu:>6}{size:>8}'
      f'{tables.gib(candidate.estimate.total):>12}'
      f'  {"no" if estimate.does_not_fit else "yes"}',
      f'    {candidate.flags}',
    ]
  return '\n'.join(lines)
