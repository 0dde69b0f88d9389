"""Suggests config changes that reduce memory, each with its effect."""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from kd.core import errors
from kd.planning import planned_run
from kd.planning import tables
from kd.planning.cost import analytic_cost
from kd.planning.cost import chips
from kd.planning.cost import costs
from kd.planning.cost import estimates
from kd.run import resolved
from kd.run import source

_MIN_EFFECT = 0.01  # fraction of HBM; smaller effects are not listed


def estimate(
  config: ml_collections.ConfigDict, chosen: chips.Slice
) -> estimates.Estimate:
  """Returns the estimate of a config by formula.

  Raises:
    ConfigError: the config does not work on the slice.
  """
  run = planned_run.on_abstract_mesh(config, chosen.count)
  return by_formula(run, costs.resident_memory(run), chosen)


def by_formula(
  run: resolved.Run, resident: costs.ResidentMemory, chosen: chips.Slice
) -> estimates.Estimate:
  """Returns the estimate of a resolved run by formula."""
  return estimates.Estimate(
    run,
    chosen,
    estimates.FORMULA,
    resident,
    analytic_cost.all_costs(run, resident),
  )


def flags(changes: Mapping[str, Any]) -> str:
  """Returns the flags that set these values, to paste into a command."""
  return ' '.join(f'--config.{k}={v}' for k, v in changes.items())


def _changes(config, estimate_) -> Iterator[dict[str, Any]]:
  shape = estimate_.run.mesh.shape
  for remat in ('dots', 'block', 'block_offload'):
    yield {'student.remat': remat}
  yield {'optimizer.state_memory': 'host'}
  micro = config.optimizer.micro_batches
  yield {'optimizer.micro_batches': 2 * micro}
  yield {'data.batch_size': config.data.batch_size // 2}
  if shape['data'] > 1:
    yield {'mesh.data': 1, 'mesh.fsdp': shape['data'] * shape['fsdp']}
  # With several chips per row, a batch can have more micro-batches.
  for axis in ('tensor', 'sequence'):
    for shards in (2, 4, 8):
      if shape['fsdp'] % shards == 0:
        yield {
          'mesh.fsdp': shape['fsdp'] // shards,
          f'mesh.{axis}': shape[axis] * shards,
          'optimizer.micro_batches': micro * shards,
        }
  if estimate_.run.teachers:
    yield {'teacher.param_dtype': 'bfloat16'}
  halves = {'evaluation.batch_size': config.evaluation.batch_size // 2}
  if source.of(config).sampling() is not None:
    halves['rollout.batch_size'] = config.rollout.batch_size // 2
  yield halves
  yield {'data.length': config.data.length // 2}


def _larger(chosen):
  """Yields the larger slices of the same TPU generation."""
  names = [f'{chosen.generation}:{s}' for s in chosen.chip.shapes]
  for name in names[names.index(chosen.name) + 1 :]:
    yield chips.parse(name)


def lines(
  config: ml_collections.ConfigDict, planned: estimates.Estimate
) -> list[str]:
  """Returns one line per change that reduces memory, largest effect first.

  Effects are computed by formula and scaled to the compiled size.

  Args:
    config: the config of the run.
    planned: its estimate, which does not fit.
  """
  before = estimate(config, planned.chosen).total
  limit = planned.chosen.chip.hbm_bytes
  effects = reductions(config, planned)
  larger = _on_larger(config, planned, before)
  effects = [e for e in effects + larger if e[0] > _MIN_EFFECT * limit]
  result = []
  for saved, text in sorted(effects, reverse=True):
    over = planned.total - saved - limit
    verdict = 'fits' if over <= 0 else f'still {tables.gib(over)} GiB over'
    result.append(f'{text}: {tables.gib(saved)} GiB less, {verdict}')
  return result


def reductions(
  config: ml_collections.ConfigDict, planned: estimates.Estimate
) -> list[tuple[float, str]]:
  """Returns the saved bytes per chip and the flags of each change.

  Args:
    config: the config of the run.
    planned: its estimate.
  """
  before = estimate(config, planned.chosen).total
  effects = []
  for changes in _changes(config, planned):
    try:
      after = estimate(
        planned_run.changed(config, changes), planned.chosen
      ).total
    except errors.ConfigError:
      continue  # Batches or heads are not divisible.
    effects.append((planned.total * (1 - after / before), flags(changes)))
  return effects


def _on_larger(config, planned, before):
  for chosen in _larger(planned.chosen):
    # Keeps the rows per chip; fsdp gets the additional chips.
    times = chosen.count // planned.chosen.count
    rows = {
      'data.batch_size': config.data.batch_size * times,
      'evaluation.batch_size': config.evaluation.batch_size * times,
      'rollout.batch_size': config.rollout.batch_size * times,
      'mesh.fsdp': -1,
    }
    try:
      after = estimate(planned_run.changed(config, rows), chosen).total
    except errors.ConfigError:
      continue
    fits = planned.total * after / before <= chosen.chip.hbm_bytes
    if fits or chosen.count >= 4 * planned.chosen.count:
      text = f'--config.plan.topology={chosen.name}, the same rows per chip'
      return [(planned.total * (1 - after / before), text)]
  return []
