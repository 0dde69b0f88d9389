"""Checks the config and prints what it resolves to; writes nothing."""

import jax
import ml_collections

from kd.config import base
from kd.core import config as config_lib
from kd.core import folders
from kd.core import paths
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import lookup
from kd.planning.cost import costs
from kd.run import resolve
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import session
from kd.run import workdirs
from kd.train import describe

_MIB = 2**20


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Validates a config and prints what it resolves to; writes nothing.

  The tasks are looked up last, since importing TensorFlow takes seconds.

  Raises:
    ConfigError: a field or flag is wrong; names the first one.
  """
  run = resolve.resolve(config, jax.devices())
  hf_tokenizer.check(run.tokenizer, 'data.tokenizer')
  changes = workdirs.check(run.config, workdir)
  folders.check_writable(workdir, '--workdir')
  rows = paths.expand_sparse(config.data.folder)
  folders.check_writable(rows, 'data.folder')
  lines = [
    *changed(run.config),
    describe.describe_run(run, workdir),
    memory(run),
  ]
  session.say('\n'.join([*lines, *changes.notes()]))
  rationale = [
    f'losses.{term.key}.part'
    for term in run.objective.terms
    if term.loss.part == 'rationale'
  ]
  routes = routed_teachers.routes(run.config)
  session.say(lookup.check(run.config, rationale, routes))


def changed(config: ml_collections.ConfigDict) -> list[str]:
  """Returns a line for each field that differs from its default."""
  defaults = base.get_config().to_dict()
  lines = ['changed from the defaults:']
  for path, old, new in config_lib.differences(defaults, config.to_dict()):
    if new == 'absent':
      continue
    default = '' if old == 'absent' else f' (default {old!r})'
    lines.append(f'  {path} = {new!r}{default}')
  return lines


def memory(run: resolved.Run) -> str:
  """Formats the bytes that a device holds between steps in a line."""
  resident = costs.resident_memory(run)
  parts = {
    'parameters': resident.parameters,
    'gradients': resident.gradients,
    'optimizer state': resident.optimizer,
    'teachers': sum(resident.teachers),
  }
  listed = ', '.join(f'{k} {v / _MIB:,.1f}' for k, v in parts.items() if v)
  total = sum(parts.values()) / _MIB
  return (
    f'memory per device, without activations: {total:,.1f} MiB ({listed}); '
    '--mode=plan counts activations'
  )
