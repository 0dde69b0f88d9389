"""Checks that a workdir belongs to a run, and what may change on resume.

A workdir is identified by content: the values of the config, and digests of the
weights and examples that it names. Paths may change, so the run stays the same
in a moved checkout or in a workdir copied from another machine.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from typing import Any

import ml_collections

from kd.checkpoints import manager
from kd.config import base
from kd.config import legal as legal_lib
from kd.config import rules as config_rules
from kd.config import schema
from kd.core import atomic_files
from kd.core import config as config_lib
from kd.core import errors
from kd.core import json_files
from kd.core import run_info
from kd.input_pipeline import task_code
from kd.models import config_json
from kd.partitioning import processes
from kd.pruning import sizes
from kd.run import model_sizes
from kd.run import resolved

CONFIG_FILE = 'config.json'
_PLUGINS = 'plugins'  # Digests of their code by name, in run.json.
_LONGEST = 300  # Maximum number of characters of a library's message.
_LISTED = 20  # Maximum number of differences in a message.
_WRITTEN = 'the file as the run wrote it'

# Fields that training does not use.
_OTHER_MODES = (
  *('benchmark.', 'board.', 'export.', 'generate.', 'plan.', 'reasoning.'),
  *('registry.', 'search.', 'serve.', 'alarms.', 'deploy.', 'follow.'),
  'student.prune.calibration_rows',
)
# Fields that affect how and how often values are computed and saved, but not
# the values, up to rounding. `steps` is one, so that a run can be extended.
RESUMABLE = (
  *('steps', 'nonfinite', 'checkpoint.', 'log.', 'profile.', 'plugins'),
  *('evaluation.every', 'evaluation.batch_size', 'evaluation.token_kl'),
  *('evaluation.stop.patience', 'evaluation.stop.min_delta'),
  *('data.folder', 'data.images.features_folder'),
  *('data.read.', 'data.refresh'),
  *('data.backend', 'data.workers', 'data.beam_args'),
  *('mesh.', 'teacher.mesh.', 'teacher.devices', 'processes.'),
  *('objective.chunk_tokens', 'optimizer.micro_batches'),
  *('student.attention', 'teacher.attention', 'student.remat'),
  *('optimizer.state_memory', 'teacher.memory'),
  'cache.',  # A cache is compared by the digest of its manifest.
  'teacher.server.',  # A server is compared by the digest of what it returns.
  *('rollout.batch_size', 'rollout.devices', 'rollout.mesh.'),
)
# Fields that may also change in modes that do not train.
NOT_TRAINED = ('evaluation.',)
_STORED_SOURCES = ('hf', 'gguf', 'workdir')


@dataclasses.dataclass(frozen=True)
class Changes:
  """The config fields that changed since the workdir's last run.

  Attributes:
    fields: [old, new] by field, without fields that training does not use. For
      a plugin whose code changed, its digests under `plugins.NAME`.
    paths: the same for fields that name files, whose contents are compared.
  """

  fields: Mapping[str, list[Any]]
  paths: Mapping[str, list[Any]]

  def notes(self) -> list[str]:
    """Returns a line for each change."""
    lines = [
      f'changed since the last start: {field}: {old!r} to {new!r}'
      for field, (old, new) in self.fields.items()
    ]
    lines += [
      f'{field} was {old!r} and is {new!r}: the content must be the same, '
      'which is checked when it is loaded'
      for field, (old, new) in self.paths.items()
    ]
    return lines


def recorded_config(workdir: str) -> ml_collections.ConfigDict | None:
  """Returns the config of a workdir's last run; None without a run.

  Raises:
    ConfigError: the file is damaged, or another version of kd wrote it.
  """
  fields = _recorded_fields(workdir)
  if not fields:
    return None
  try:
    return base.checked(ml_collections.ConfigDict(fields))
  except errors.ConfigError as e:
    raise e.at(f'{os.path.join(workdir, CONFIG_FILE)}: {e.path}') from e


def check(
  config: ml_collections.ConfigDict,
  workdir: str,
  also_allowed: tuple[str, ...] = (),
) -> Changes:
  """Compares a config with that of the workdir's last run.

  Args:
    config: the config.
    workdir: the folder, which need not exist.
    also_allowed: prefixes of more fields that may differ.

  Returns:
    The allowed differences.

  Raises:
    ConfigError: other fields differ, which the message lists, or `steps` is
      below the step of the latest checkpoint.
  """
  old = _recorded_fields(workdir)
  if not old:
    return Changes({}, {})
  new = json.loads(config_lib.to_json(config))
  allowed = (*RESUMABLE, *also_allowed)
  if not any(_is_on_policy(c) for c in (old, new)):
    allowed = (*allowed, 'rollout.')
  changes, refused = Changes({}, {}), []
  for field, there, here in config_lib.differences(old, new):
    if field.startswith(_OTHER_MODES):
      continue
    if _names_stored_files(field, there, here):
      changes.paths[field] = [there, here]
    elif field.startswith(allowed):
      changes.fields[field] = [there, here]
    else:
      there, here = legal_lib.shown(there), legal_lib.shown(here)
      refused.append(f'{field}: recorded {there}, now {here}')
  if len(refused) > _LISTED:
    refused[_LISTED:] = [f'and {len(refused) - _LISTED} more']
  if refused:
    raise errors.ConfigError(
      '--workdir',
      f'{workdir!r} contains a run of another config:\n  '
      + '\n  '.join(refused),
      legal='a new folder, or the same config to resume that run',
    )
  _check_steps(config.steps, workdir)
  recorded = read_run(workdir).get(_PLUGINS, {})
  for name, digest in task_code.plugin_digests().items():
    if name in recorded and recorded[name] != digest:
      changes.fields[f'{_PLUGINS}.{name}'] = [recorded[name], digest]
  return changes


def _recorded_fields(workdir):
  """Returns the recorded config as JSON values; {} without a run.

  It is updated to this version of kd: renamed fields get their current names,
  and new fields their defaults.
  """
  fields = _read(workdir, CONFIG_FILE)
  if not fields:
    return {}
  base.load_plugins(fields)  # They may register fields with defaults.
  try:
    config = ml_collections.ConfigDict(schema.completed(base.ROOT, fields))
  except (ValueError, TypeError) as e:  # ConfigDict rejects some names.
    file = os.path.join(workdir, CONFIG_FILE)
    raise errors.ConfigError(
      '--workdir', f'{file}: {str(e)[:_LONGEST]}', _WRITTEN
    ) from e
  return json.loads(config_lib.to_json(config))


def _read(workdir, name):
  """Returns the contents of a workdir's JSON file; {} if it is missing."""
  fields = json_files.read_in(workdir, name, '--workdir')
  file = os.path.join(workdir, name)
  if not fields and os.path.exists(file):
    raise errors.ConfigError(
      '--workdir', f'{file}: contains no field', _WRITTEN
    )
  return fields


def _is_on_policy(fields):
  teacher = fields.get('teacher')
  return (
    isinstance(teacher, dict)
    and teacher.get('source') in config_rules.ON_POLICY
  )


def _names_stored_files(field, *values):
  """Returns whether all values of a field name stored weights or tokenizers."""
  if field == sizes.SCORES:
    # The digest of the pruned parameters is recorded for student.init.
    return all(values)
  if (
    not field.endswith(('.init', '.vision_init')) and field != 'data.tokenizer'
  ):
    return False
  kinds = [str(value).partition(':')[0] for value in values]
  return all(kind in (*_STORED_SOURCES, 'model') for kind in kinds)


def _check_steps(steps, workdir):
  step = manager.latest_step(workdir)
  if step is not None and steps < step:
    raise errors.ConfigError(
      'steps',
      f'found {steps}, and {workdir!r} contains a checkpoint of step {step}',
      legal=f'{step} or more, or a new folder',
    )


def begin(
  run: resolved.Run,
  workdir: str,
  changes: Changes,
  inputs: Mapping[str, str],
  data: Mapping[str, Any],
) -> None:
  """Writes config.json, run.json and the tokenizer's files.

  Args:
    run: the resolved run.
    workdir: the run's folder.
    changes: changes of the config, from `check`.
    inputs: digests of the run's inputs by field.
    data: JSON values about the data: `mixture`, with each task's fractions of
      rows, examples and target tokens, and `rows`; see row_facts.describe.

  Raises:
    ConfigError: the run in the workdir has other inputs.
  """
  processes.from_first(lambda: _begin(run, workdir, changes, inputs, data))


def _begin(run, workdir, changes, inputs, data):
  old = read_run(workdir)
  inputs = {**inputs, 'data.tokenizer': run.tokenizer.digest}
  _check_inputs(workdir, old, inputs)
  history = list(old['changes'])
  if changes.fields or changes.paths:
    history.append(
      {
        'date': run_info.now(),
        'step': manager.latest_step(workdir) or 0,
        'fields': {**changes.fields, **changes.paths},
      }
    )
  value = {
    **run_info.collect(),
    'student': config_json.to_json(run.student.config),
    'inputs': {**old['inputs'], **inputs},
    _PLUGINS: task_code.plugin_digests(),
    'changes': history,
    **data,
    'parameters': _parameters(run),
  }
  text = config_lib.to_json(run.config) + '\n'
  atomic_files.write_json(os.path.join(workdir, model_sizes.RUN_FILE), value)
  atomic_files.write_text(os.path.join(workdir, CONFIG_FILE), text)
  atomic_files.write_all(workdir, run.tokenizer.files())


def _parameters(run):
  """Returns the numbers of the student's parameters, total and trained."""
  abstract = run.student.module.abstract_params()
  trained, total = run.optimizer.groups.count((abstract, {}))
  return {'total': total, 'trained': trained}


def record_ends(workdir: str, ends: Mapping[str, Any]) -> None:
  """Records the last step of each training, and the reason if it ended early.

  Args:
    workdir: a folder written by `begin`; only one process may call this.
    ends: JSON values by training.
  """
  file = os.path.join(workdir, model_sizes.RUN_FILE)
  atomic_files.write_json(file, {**read_run(workdir), 'ends': ends})


def read_run(workdir: str) -> dict[str, Any]:
  """Returns run.json; without a run, one without inputs and changes.

  Raises:
    ConfigError: the file is damaged.
  """
  fields = _read(workdir, model_sizes.RUN_FILE)
  if not fields:
    return {'inputs': {}, 'changes': []}
  for name, kind in (('inputs', dict), ('changes', list)):
    if not isinstance(fields.get(name), kind):
      file = os.path.join(workdir, model_sizes.RUN_FILE)
      found = json_files.short(fields.get(name))
      raise errors.ConfigError(
        '--workdir', f'{file}: {name}: found {found}', _WRITTEN
      )
  return fields


def _check_inputs(workdir, old, inputs):
  recorded = old['inputs']
  known = [name for name in inputs if name in recorded]
  config_lib.refuse_differences(
    {name: recorded[name] for name in known},
    {name: inputs[name] for name in known},
    '--workdir',
    f'{workdir!r} was begun with other content, by its digest',
    'the same content at these fields, or a new folder',
  )


def check_input(workdir: str, name: str, digest: str) -> None:
  """Records the digest of an input, or compares it with the recorded one.

  Args:
    workdir: a folder written by `begin`.
    name: the field that names the input.
    digest: digest of the input.

  Raises:
    ConfigError: the recorded digest differs.
  """

  def record():
    old = read_run(workdir)
    _check_inputs(workdir, old, {name: digest})
    if name not in old['inputs']:
      old['inputs'][name] = digest
      file = os.path.join(workdir, model_sizes.RUN_FILE)
      atomic_files.write_json(file, old)

  processes.from_first(record)


def check_tokenizer(run: resolved.Run, workdir: str) -> None:
  """Raises ConfigError if a workdir was trained with another tokenizer."""
  recorded = read_run(workdir)
  _check_inputs(workdir, recorded, {'data.tokenizer': run.tokenizer.digest})
