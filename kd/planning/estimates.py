"""From programs' costs to a run's: memory, time, money."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from kd.planning import buffers
from kd.planning import chips
from kd.planning import costs
from kd.planning import programs
from kd.train import resolve

_DAY = 86_400.0
_HOUR = 3_600.0
COMPILER, PAPER = 'compiler', 'paper'


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A run on a slice.

  Attributes:
    run: what was planned.
    chosen: the slice.
    source: whose counts these are, COMPILER or PAPER.
    held: what it keeps in memory.
    costs: of each program.
  """

  run: resolve.Run
  chosen: chips.Slice
  source: str
  held: costs.Held
  costs: Sequence[costs.Cost]

  @functools.cached_property
  def phases(self) -> dict[str, dict[str, int]]:
    """Bytes a chip while each program runs, by kind, with what lies beside."""
    beside = costs.beside(self.run, self.held)
    return {
      c.name: {k: c.bytes[k] + beside[c.name][k] for k in buffers.KINDS}
      for c in self.costs
    }

  @property
  def peaks(self) -> dict[str, int]:
    """Bytes a chip while each program runs."""
    return {name: sum(kinds.values()) for name, kinds in self.phases.items()}

  @property
  def peak(self) -> str:
    """The program that decides what memory is needed."""
    return max(self.peaks, key=self.peaks.get)

  @property
  def total(self) -> int:
    return self.peaks[self.peak]

  @property
  def host(self) -> float:
    """Bytes a chip in the host's memory, of the program that needs most."""
    return max(c.host for c in self.costs)

  @property
  def refused(self) -> list[str]:
    """Programs that do not fit."""
    limit = self.chosen.chip.hbm_bytes
    return [c.name for c in self.costs if c.error or self.peaks[c.name] > limit]

  @property
  def step_costs(self) -> list[costs.Cost]:
    """What every update runs: the teachers' passes and the update."""
    return [c for c in self.costs if c.name != programs.DECODE]

  @property
  def seconds(self) -> float:
    """Of a step, by the roofline: nothing is faster, most are slower.

    Teachers on chips of their own score the next batch in the meantime, unless
    the student has yet to write it.
    """
    seconds = [c.seconds(self.chosen.chip) for c in self.step_costs]
    writes = self.run.config.teacher.source == 'rollout'
    if programs.is_apart(self.run) and not writes:
      return max(sum(seconds[:-1]), seconds[-1])
    return sum(seconds)

  @property
  def bound(self) -> str:
    """What the step waits for most: compute, memory or network."""
    parts = dict.fromkeys(('compute', 'memory', 'network'), 0.0)
    for cost in self.step_costs:
      by_part = cost.seconds_by_part(self.chosen.chip)
      slowest = max(by_part, key=by_part.get)
      parts[slowest] += by_part[slowest]
    return max(parts, key=parts.get)

  @property
  def mfu(self) -> float:
    """Operations that the models need (none twice) to what chips could do."""
    needed = costs.model_flops(self.run)
    needed.pop('recomputed')
    could = self.seconds * self.chosen.count * self.chosen.chip.flops
    return sum(needed.values()) / could

  @property
  def tokens_a_day(self) -> float:
    data = self.run.config.data
    return data.batch_size * data.length / self.seconds * _DAY

  @property
  def hours(self) -> float:
    return self.seconds * self.run.config.steps / _HOUR

  @property
  def dollars(self) -> float:
    """Of the whole run; 0 where the config gives no price."""
    return self.hours * self.chosen.count * self.run.config.plan.price


def as_json(estimate: Estimate) -> dict[str, Any]:
  """The estimate in numbers: bytes and operations of one chip, seconds."""
  config = estimate.run.config
  return {
    'topology': estimate.chosen.name,
    'chips': estimate.chosen.count,
    'length': config.data.length,
    'source': estimate.source,
    'hbm_bytes': estimate.chosen.chip.hbm_bytes,
    'peak_bytes': estimate.total,
    'peak_program': estimate.peak,
    'fits': not estimate.refused,
    'does_not_fit': estimate.refused,
    'bytes': estimate.phases[estimate.peak],
    'host_bytes': estimate.host,
    'programs': {
      c.name: {
        'bytes': estimate.phases[c.name],
        'own_bytes': sum(c.bytes.values()),
        'stated_bytes': c.stated,
        'flops': c.flops,
        'hbm': c.hbm,
        'ici': c.ici,
        'host': c.host,
        'error': c.error,
      }
      for c in estimate.costs
    },
    'step_seconds': estimate.seconds,
    'bound': estimate.bound,
    'mfu': estimate.mfu,
    'tokens_a_day': estimate.tokens_a_day,
    'run_hours': estimate.hours,
    'dollars': estimate.dollars,
  }
