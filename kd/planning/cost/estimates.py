"""Sums the costs of programs up to those of a run: memory, time, money."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from kd.planning import programs
from kd.planning.cost import chips
from kd.planning.cost import costs
from kd.planning.hlo import buffers
from kd.train import resolved
from kd.train.feeds import feed

_DAY = 86_400.0
_HOUR = 3_600.0
COMPILER, PAPER = 'compiler', 'paper'


@dataclasses.dataclass(frozen=True)
class Speed:
  """How fast a run is at some MFU.

  Attributes:
    mfu: operations that the models need, none counted twice, as a share of what
      the chips could do in that time.
    seconds: per step.
    tokens_a_day: tokens trained on per day.
    hours: of the whole run.
    dollars: of the whole run; 0 where the config gives no price.
  """

  mfu: float
  seconds: float
  tokens_a_day: float
  hours: float
  dollars: float


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A run on a slice.

  Attributes:
    run: the planned run.
    chosen: the slice.
    source: where the numbers come from, COMPILER or PAPER.
    held: what the run holds in memory.
    costs: of each program.
    date: of the oldest compilation; '' where nothing was compiled.
    versions: of the compiler's packages; {} where nothing was compiled.
  """

  run: resolved.Run
  chosen: chips.Slice
  source: str
  held: costs.Held
  costs: Sequence[costs.Cost]
  date: str = ''
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def phases(self) -> dict[str, dict[str, int]]:
    """Bytes per chip while each program runs, by kind."""
    beside = costs.beside(self.run, self.held)
    return {
      c.name: {k: c.bytes[k] + beside[c.name][k] for k in buffers.KINDS}
      for c in self.costs
    }

  @property
  def peaks(self) -> dict[str, int]:
    """Bytes per chip while each program runs."""
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
    """Bytes per chip in the host's memory, of the program that needs most."""
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
    """Seconds per step by the roofline, the least that is possible.

    Teachers on chips of their own score the next batch in the meantime, unless
    the student has yet to write it.
    """
    seconds = [c.seconds(self.chosen.chip) for c in self.step_costs]
    samples = feed.source(self.run.config).sampling() is not None
    if programs.is_apart(self.run) and not samples:
      return max(sum(seconds[:-1]), seconds[-1])
    return sum(seconds)

  @functools.cached_property
  def limit(self) -> Speed:
    """The roofline's speed, the most that is possible."""
    return self._speed(self.seconds)

  @property
  def expected(self) -> Speed:
    """The speed at the config's plan.mfu, or the roofline's if that is less."""
    mfu = min(self.limit.mfu, self.run.config.plan.mfu)
    return self._speed(self.seconds * self.limit.mfu / mfu)

  def _speed(self, seconds):
    needed = costs.model_flops(self.run)
    needed.pop('recomputed')
    config, chip = self.run.config, self.chosen.chip
    hours = seconds * config.steps / _HOUR
    tokens = config.data.batch_size * config.data.length
    return Speed(
      mfu=sum(needed.values()) / (seconds * self.chosen.count * chip.flops),
      seconds=seconds,
      tokens_a_day=tokens / seconds * _DAY,
      hours=hours,
      dollars=hours * self.chosen.count * config.plan.price,
    )

  @property
  def bound(self) -> str:
    """What the step waits for most: compute, memory or network."""
    parts = dict.fromkeys(('compute', 'memory', 'network'), 0.0)
    for cost in self.step_costs:
      by_part = cost.seconds_by_part(self.chosen.chip)
      slowest = max(by_part, key=by_part.get)
      parts[slowest] += by_part[slowest]
    return max(parts, key=parts.get)


def as_json(estimate: Estimate) -> dict[str, Any]:
  """Returns the estimate in numbers: bytes and operations per chip, seconds."""
  config = estimate.run.config
  return {
    'topology': estimate.chosen.name,
    'chips': estimate.chosen.count,
    'length': config.data.length,
    'source': estimate.source,
    'date': estimate.date,
    'versions': dict(estimate.versions),
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
    'bound': estimate.bound,
    'limit': dataclasses.asdict(estimate.limit),
    'expected': dataclasses.asdict(estimate.expected),
  }
