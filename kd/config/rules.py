"""Rules between fields of the config, one function each.

They need only the config. Rules that need models or devices are checked where
these are built, in kd/run/resolve.py.
"""

from collections.abc import Callable
import math
from typing import Any

from kd.config import schema
from kd.config import teacher_rules
from kd.config.fields import training
from kd.core import errors
from kd.core import schedules

# Metrics of every held-out set, and metrics that need a live teacher.
_LIKELIHOODS = ('nll', 'perplexity', 'accuracy')
_DISTANCES = ('kl', 'agreement')

# Values of teacher.source with which the student samples rows.
ON_POLICY = ('on_policy', 'on_policy_server')

# Arrays of tokens are indexed by int32.
_MOST_TOKENS = 2**31 - 1


def check(config: Any) -> None:
  """Refuses fields that contradict each other.

  Args:
    config: a config in which each field by itself is legal.

  Raises:
    ConfigError: a field contradicts another one; names the first such field.
  """
  for rule in RULES:
    rule(config)


def scheduled(config: Any, path: str) -> schedules.Schedule:
  """Builds the schedule of a field such as 'rollout.fraction'."""
  value = config
  for key in path.split('.'):
    value = value[key]
  return schema.build_schedule(value, path, config.steps)


def _extremes(config, path):
  return schedules.extremes(scheduled(config, path), config.steps)


def batch_fits_int32(config: Any) -> None:
  """Requires the tokens of a batch to be indexable by int32."""
  for section in ('data', 'evaluation', 'cache'):
    rows = config[section].batch_size
    if rows * config.data.length > _MOST_TOKENS:
      raise errors.ConfigError(
        f'{section}.batch_size',
        f'found {rows}, with data.length {config.data.length}',
        legal=f'fewer than {_MOST_TOKENS:,} tokens in a batch',
      )


def chunks_advance(config: Any) -> None:
  """Requires chunks of a document to be longer than their overlap."""
  overlap, length = config.data.chunk_overlap, config.data.length
  if overlap >= length:
    raise errors.ConfigError(
      'data.chunk_overlap',
      f'found {overlap}, and data.length is {length}',
      legal=f'less than data.length, {length}',
    )


def rationale_needs_whole_rows(config: Any) -> None:
  """Forbids dropping rationales with cached targets of whole rows."""
  _, highest = _extremes(config, 'data.rationale.drop_fraction')
  if highest > 0 and config.teacher.source == 'cached':
    raise errors.ConfigError(
      'data.rationale.drop_fraction',
      "found more than 0 with teacher.source 'cached', whose targets were "
      'computed on whole rows',
      legal="0.0, or teacher.source 'live' or 'on_policy'",
    )


def buffer_serves_steps_between(config: Any) -> None:
  """Requires a buffer of rows if and only if some steps do not sample."""
  rollout = config.rollout
  if (rollout.every > 1) != (rollout.buffer > 0):
    raise errors.ConfigError(
      'rollout.buffer',
      f'found {rollout.buffer}, and rollout.every is {rollout.every}',
      legal='0 if every step samples, else the number of rows to keep for the '
      'steps that do not',
    )


def rollouts_are_rows(config: Any) -> None:
  """Requires rows that fit one prompt with its sampled answer."""
  source = config.teacher.source
  if source not in ON_POLICY:
    return
  if config.data.pack:
    raise errors.ConfigError(
      'data.pack',
      f'found True with teacher.source {source!r}, where a row is a prompt and '
      'its answer',
      legal='False',
    )
  rollout = config.rollout
  if rollout.max_new_tokens >= config.data.length:
    raise errors.ConfigError(
      'rollout.max_new_tokens',
      f'found {rollout.max_new_tokens}, which leaves no room for a prompt in a '
      'row',
      legal=f'less than data.length, {config.data.length}',
    )
  _, highest = _extremes(config, 'rollout.fraction')
  needed = math.ceil(highest * config.data.batch_size)
  if rollout.every > 1 and rollout.buffer < needed:
    raise errors.ConfigError(
      'rollout.buffer',
      f'found {rollout.buffer}, and a step takes {needed} rows from it',
      legal=f'{needed} or more: rollout.fraction x data.batch_size',
    )


def rollouts_ahead_have_devices(config: Any) -> None:
  """Requires devices for sampling ahead if and only if rows may be stale."""
  rollout, source = config.rollout, config.teacher.source
  if (rollout.devices > 0) != (rollout.staleness > 0):
    raise errors.ConfigError(
      'rollout.staleness',
      f'found {rollout.staleness}, and rollout.devices is {rollout.devices}',
      legal='0 without devices that only sample, else 1 or more',
    )
  if rollout.devices and source not in ON_POLICY:
    raise errors.ConfigError(
      'rollout.devices',
      f'found {rollout.devices}, and teacher.source is {source!r}: nothing is '
      'sampled',
      legal='0, or teacher.source ' + ' or '.join(map(repr, ON_POLICY)),
    )
  if rollout.devices and rollout.every > 1:
    raise errors.ConfigError(
      'rollout.every',
      f'found {rollout.every}, and rollout.devices is {rollout.devices}: they '
      'sample for every step',
      legal='1, or rollout.devices 0',
    )


def traced_steps_exist(config: Any) -> None:
  """Requires the traced steps to be steps of the run."""
  profile = config.profile
  if profile.steps and profile.first_step + profile.steps > config.steps:
    last = config.steps - profile.first_step
    raise errors.ConfigError(
      'profile.steps',
      f'found {profile.steps}, after {profile.first_step} steps of '
      f'{config.steps}',
      legal=f'0 to {last}' if last > 0 else '0, or a lower profile.first_step',
    )


def traces_contain_steps_alone(config: Any) -> None:
  """Forbids evaluations and checkpoints between the steps of a trace."""
  profile = config.profile
  for section in ('evaluation', 'checkpoint'):
    every = config[section].every
    if not profile.steps or not every:
      continue
    due = (profile.first_step // every + 1) * every
    if due < profile.first_step + profile.steps:
      raise errors.ConfigError(
        'profile.steps',
        f'found {profile.steps}, after {profile.first_step} steps, and '
        f'{section}.every is {every}: the trace would contain the {section} '
        f'after step {due}',
        legal=f'0 to {due - profile.first_step}, or another profile.first_step',
      )


def groups_train(config: Any) -> None:
  """Requires a group of parameters to be trained during the run or frozen."""
  for name, group in config.optimizer.groups.items():
    path = f'optimizer.groups.{name}'
    if group.first_step >= config.steps:
      raise errors.ConfigError(
        f'{path}.first_step',
        f'found {group.first_step}, and the run has {config.steps} steps',
        legal=f'fewer than {config.steps}, or frozen=True',
      )
    changed = [
      field
      for field in ('rate', 'first_step', 'weight_decay')
      if group[field] != schema.defaults(training.GROUP)[field]
    ]
    if group.frozen and changed:
      raise errors.ConfigError(
        f'{path}.frozen',
        f'found True, with {changed[0]} {group[changed[0]]!r}, which a frozen '
        'parameter does not have',
        legal=f'False, or no {changed[0]}',
      )


def ranges_are_used(config: Any) -> None:
  """Requires rounded activations if their ranges are tracked."""
  quantize = config.student.quantize
  if quantize.activation_range == 'running' and quantize.activations == 'none':
    raise errors.ConfigError(
      'student.quantize.activation_range',
      "found 'running', and activations are not rounded",
      legal='student.quantize.activations int8 or fp8',
    )


def averages_exist(config: Any) -> None:
  """Requires an average of the parameters if it is evaluated."""
  if config.evaluation.params == 'ema' and not config.ema.decay:
    raise errors.ConfigError(
      'evaluation.params',
      "found 'ema', and ema.decay is 0: there is no average",
      legal="'last', or ema.decay above 0, such as 0.999",
    )


def kept_layers_rise(config: Any) -> None:
  """Requires kept layers to be unique and in increasing order."""
  for field in ('keep_layers', 'keep_tower_layers'):
    layers = tuple(config.student[field])
    if layers != tuple(sorted(set(layers))):
      raise errors.ConfigError(
        f'student.{field}',
        f'found {layers}',
        legal='layers in ascending order, each once',
      )


def layers_are_chosen_once(config: Any) -> None:
  """Forbids giving both the kept layers and their number."""
  count, named = config.student.prune.layers, config.student.keep_layers
  if count and named:
    raise errors.ConfigError(
      'student.prune.layers',
      f'found {count}, and student.keep_layers is {tuple(named)}',
      legal='one of the two',
    )


def dither_has_matrices(config: Any) -> None:
  """Requires trainable, quantized matrices if noise is added to them."""
  quantize = config.student.quantize
  if not quantize.dither:
    return
  path = 'student.quantize.dither'
  if config.student.lora.rank:
    raise errors.ConfigError(
      path,
      f'found {quantize.dither}, and student.lora.rank is '
      f'{config.student.lora.rank}: the base is frozen',
      legal='0.0 with adapters',
    )
  if {quantize.weights, quantize.tables} == {'none'} and not quantize.rules:
    raise errors.ConfigError(
      path,
      f'found {quantize.dither}, and no matrix has a scheme',
      legal='0.0, or a scheme in student.quantize.weights',
    )


def evaluation_has_examples(config: Any) -> None:
  """Requires examples in each held-out set, and a set if any is evaluated."""
  for name, entry in config.evaluation.sets.items():
    if not entry.examples and not entry.answers:
      raise errors.ConfigError(
        f'evaluation.sets.{name}.examples',
        'found 0, and answers is 0: nothing would be evaluated',
        legal='above 0 or -1 in one of them, or evaluation.sets={}',
      )
  if config.evaluation.every and not config.evaluation.sets:
    raise errors.ConfigError(
      'evaluation.every',
      f'found {config.evaluation.every}, and evaluation.sets is empty',
      legal='0, or a set to evaluate',
    )


def metrics_without_answers(config: Any) -> tuple[str, ...]:
  """Returns the metrics of a held-out set that do not depend on its tasks."""
  teacher = config.teacher
  has_teacher = teacher.source in ('live', 'on_policy')
  has_teacher &= teacher.tokenizer == 'shared'
  return (*_LIKELIHOODS, *(_DISTANCES if has_teacher else ()))


def best_is_measured(config: Any) -> None:
  """Requires the metric of the best checkpoint to be evaluated."""
  _check_metric(config, 'best')


def stop_is_measured(config: Any) -> None:
  """Requires the metric of early stopping to be evaluated during training."""
  stop, evaluation = config.evaluation.stop, config.evaluation
  if not stop.patience:
    return
  if not evaluation.every:
    raise errors.ConfigError(
      'evaluation.stop.patience',
      f'found {stop.patience}, and evaluation.every is 0: nothing is evaluated '
      'during training',
      legal='0, or evaluation.every above 0',
    )
  _check_metric(config, 'stop')


def _check_metric(config, section):
  """Raises ConfigError if the metric of a section is not evaluated."""
  chosen, sets = config.evaluation[section], config.evaluation.sets
  path = f'evaluation.{section}'
  if chosen.set and chosen.set not in sets:
    raise errors.unknown(f'{path}.set', 'set', chosen.set, sorted(sets))
  if not sets:
    return
  known = metrics_without_answers(config)
  # The metrics of tasks are unknown until their rows are prepared.
  if chosen.metric not in known and not sets[chosen.set or min(sets)].answers:
    raise errors.unknown(f'{path}.metric', 'metric', chosen.metric, known)


def pass_at_fits_samples(config: Any) -> None:
  """Requires at least k samples for pass@k."""
  benchmark = config.benchmark
  if benchmark.pass_at and max(benchmark.pass_at) > benchmark.samples:
    raise errors.ConfigError(
      'benchmark.pass_at',
      f'found {max(benchmark.pass_at)}, and benchmark.samples is '
      f'{benchmark.samples}',
      legal=f'at most {benchmark.samples}',
    )


def strides_fit_rows(config: Any) -> None:
  """Requires the stride of a window to be at most its length."""
  stride, length = config.benchmark.stride, config.data.length
  if stride > length:
    raise errors.ConfigError(
      'benchmark.stride',
      f'found {stride}, and data.length is {length}',
      legal=f'at most data.length, {length}',
    )


def references_exist(config: Any) -> None:
  """Requires an earlier benchmark if it is the reference."""
  benchmark = config.benchmark
  if benchmark.reference == 'earlier' and not benchmark.earlier:
    raise errors.ConfigError(
      'benchmark.reference',
      "found 'earlier', and benchmark.earlier is ()",
      legal='the folder of an earlier benchmark in benchmark.earlier',
    )


RULES: tuple[Callable[[Any], None], ...] = (
  batch_fits_int32,
  chunks_advance,
  rationale_needs_whole_rows,
  *teacher_rules.RULES,
  buffer_serves_steps_between,
  rollouts_are_rows,
  rollouts_ahead_have_devices,
  groups_train,
  traced_steps_exist,
  traces_contain_steps_alone,
  ranges_are_used,
  averages_exist,
  kept_layers_rise,
  layers_are_chosen_once,
  dither_has_matrices,
  evaluation_has_examples,
  best_is_measured,
  stop_is_measured,
  pass_at_fits_samples,
  strides_fit_rows,
  references_exist,
)
