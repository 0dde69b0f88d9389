"""Combines the costs of programs into the memory, time and price of a run."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from kd.planning import programs
from kd.planning.cost import chips
from kd.planning.cost import costs
from kd.planning.hlo import buffers
from kd.run import resolved
from kd.run import source as source_lib

_DAY = 86_400.0
_HOUR = 3_600.0
# Values of 'source' in plan.json.
COMPILER, FORMULA = 'compiler', 'paper'


@dataclasses.dataclass(frozen=True)
class Speed:
  """The speed of a run at a given MFU.

  Attributes:
    mfu: model FLOPs utilization: operations of the models, not counting
      recomputation, as a fraction of the chips' peak.
    seconds: seconds per step.
    tokens_a_day: tokens trained on per day.
    hours: duration of the whole run.
    dollars: price of the whole run; 0 if the config has no price.
  """

  mfu: float
  seconds: float
  tokens_a_day: float
  hours: float
  dollars: float


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The cost of a run on a TPU slice.

  Attributes:
    run: the planned run.
    chosen: the TPU slice.
    source: origin of the numbers, COMPILER or FORMULA.
    resident: the resident memory of the run.
    costs: cost of each program.
    date: date of the oldest compilation; '' if nothing was compiled.
    versions: versions of the compiler's packages; {} if nothing was compiled.
  """

  run: resolved.Run
  chosen: chips.Slice
  source: str
  resident: costs.ResidentMemory
  costs: Sequence[costs.Cost]
  date: str = ''
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def phases(self) -> dict[str, dict[str, int]]:
    """Returns bytes per chip during each program, by kind."""
    extra = costs.extra_bytes(self.run, self.resident)
    return {
      c.name: {k: c.bytes[k] + extra[c.name][k] for k in buffers.KINDS}
      for c in self.costs
    }

  @property
  def peaks(self) -> dict[str, int]:
    """Returns bytes per chip during each program."""
    return {name: sum(kinds.values()) for name, kinds in self.phases.items()}

  @property
  def peak(self) -> str:
    """Returns the name of the program that needs the most memory."""
    return max(self.peaks, key=self.peaks.get)

  @property
  def total(self) -> int:
    """Returns bytes per chip that the run needs."""
    return self.peaks[self.peak]

  @property
  def host(self) -> float:
    """Returns bytes of host memory per chip; the maximum over programs."""
    return max(c.host for c in self.costs)

  @property
  def does_not_fit(self) -> list[str]:
    """Returns the names of the programs that do not fit."""
    limit = self.chosen.chip.hbm_bytes
    return [c.name for c in self.costs if c.error or self.peaks[c.name] > limit]

  @property
  def step_costs(self) -> list[costs.Cost]:
    """Returns the costs of one step: the teachers' passes and the update."""
    return [c for c in self.costs if c.name != programs.DECODE]

  @property
  def seconds(self) -> float:
    """Returns the roofline time of a step, a lower bound.

    Teachers on reserved chips score the next batch during the update, unless
    the student must first sample that batch.
    """
    seconds = [c.seconds(self.chosen.chip) for c in self.step_costs]
    config = self.run.config
    waits = source_lib.of(config).sampling() and not config.rollout.devices
    if programs.has_teacher_devices(self.run) and not waits:
      return max(sum(seconds[:-1]), seconds[-1])
    return sum(seconds)

  @functools.cached_property
  def limit(self) -> Speed:
    """Returns the speed of the roofline, an upper bound."""
    return self._speed(self.seconds)

  @property
  def expected(self) -> Speed:
    """Returns the speed at plan.mfu, or at the roofline if that is slower."""
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
    """Returns the bottleneck of a step: compute, memory, network or host."""
    parts = dict.fromkeys(('compute', 'memory', 'network', 'host'), 0.0)
    for cost in self.step_costs:
      by_part = cost.seconds_by_part(self.chosen.chip)
      slowest = max(by_part, key=by_part.get)
      parts[slowest] += by_part[slowest]
    return max(parts, key=parts.get)


def as_json(estimate: Estimate) -> dict[str, Any]:
  """Returns the estimate as JSON: bytes and operations per chip, seconds."""
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
    'fits': not estimate.does_not_fit,
    'does_not_fit': estimate.does_not_fit,
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
        'fetched': c.fetched,
        'error': c.error,
      }
      for c in estimate.costs
    },
    'bound': estimate.bound,
    'limit': dataclasses.asdict(estimate.limit),
    'expected': dataclasses.asdict(estimate.expected),
  }
