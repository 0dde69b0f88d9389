"""Checks a model for production and writes its deployment manifests."""

from collections.abc import Sequence
import json
import os

import ml_collections
import yaml

from kd.core import atomic_files
from kd.core import errors
from kd.core import paths
from kd.deployment import checks
from kd.deployment import manifests
from kd.deployment import vllm
from kd.monitoring import dashboard
from kd.monitoring import rules
from kd.run import provenance
from kd.run import session
from kd.versions import changes
from kd.versions import journal
from kd.versions import model_files

ARGUMENTS = 'check [MODEL] | manifests [MODEL] | vllm [MODEL]'
CONFIG_OPTIONAL = True

# The production version, its fallback, the canary, and one being loaded.
_VERSIONS = 4
_COMMANDS = ('check', 'manifests', 'vllm')


def main(
  config: ml_collections.ConfigDict, workdir: str | None, arguments: list[str]
) -> None:
  """Runs a command; see docs/deploy.md.

  MODEL is an export, a folder or a GGUF file. The default is the version in
  production in `registry.folder`.

  Raises:
    ConfigError: the command is wrong, or the model does not exist.
    KdError: a check failed.
  """
  del workdir
  command, *words = arguments or ['']
  if command not in _COMMANDS:
    raise errors.unknown(
      'command line', 'command of kd deploy', command, list(_COMMANDS)
    )
  if len(words) > 1:
    raise errors.ConfigError(
      'command line',
      f'found {len(words)} words after {command}',
      legal=f'kd deploy {command} [MODEL]',
    )
  session.devices(config)
  session.check_one_process('deploy')
  target, dtype = _target(config, words)
  if command == 'check':
    _check(target)
  elif command == 'manifests':
    _write(config, checks.need(target).total)
  else:
    session.say(vllm.command(config, target.init, dtype))


def _target(
  config: ml_collections.ConfigDict, words: Sequence[str]
) -> tuple[checks.Target, str]:
  """Returns the model to deploy and the data type of its weights."""
  if words:
    _check_not_followed(config, words[0])
    init, files, problems = model_files.exported(paths.expand(words[0]))
    claims = provenance.read(model_files.located(init.partition(':')[2])[2])
    return checks.Target(config, init, tuple(problems), files), claims['dtype']
  registry = paths.expand(config.registry.folder)
  state = changes.read(registry)
  if state.production is None:
    raise errors.ConfigError(
      changes.FIELD,
      f'no version is in production in {config.registry.folder!r}',
      legal='kd registry promote VERSION production, or name a MODEL',
    )
  version = state.versions[state.production]
  problems = changes.problems(registry, version)
  target = checks.Target(
    config,
    version.init(registry),
    tuple(problems),
    len(version.files),
    _VERSIONS + bool(config.follow.teacher),
  )
  return target, version.provenance['dtype']


def _check_not_followed(config: ml_collections.ConfigDict, model: str) -> None:
  """Raises ConfigError if a registry is served instead of the named model."""
  served = config.deploy.model
  if served and os.path.isfile(os.path.join(served, journal.FILE)):
    raise errors.ConfigError(
      'deploy.model',
      f'found {served!r}, a registry, and the model {model!r} is named',
      legal=f'no MODEL, with registry.folder={served}; or the path of the '
      'model',
    )


def _check(target: checks.Target) -> None:
  failed = []
  for finding in checks.run(target):
    session.say(finding.line())
    if not finding.passed:
      failed.append(finding.name)
  if failed:
    count = len(target.config.deploy.checks)
    raise errors.KdError(
      f'{len(failed)} of {count} checks failed: {", ".join(failed)}'
    )


def _write(config: ml_collections.ConfigDict, needed_bytes: int) -> None:
  """Writes the files for Kubernetes, Prometheus and Grafana."""
  folder = paths.expand_sparse(config.deploy.folder)
  objects = manifests.objects(config, needed_bytes)
  texts = {
    'kubernetes.yaml': yaml.safe_dump_all(objects, sort_keys=False),
    'alarms.yaml': yaml.safe_dump(rules.prometheus(config), sort_keys=False),
    'dashboard.json': json.dumps(dashboard.grafana(config), indent=2) + '\n',
  }
  with errors.refused_unless_writable(
    'deploy.folder', folder, 'a folder that this user can write'
  ):
    os.makedirs(folder, exist_ok=True)
    for name, text in texts.items():
      path = os.path.join(folder, name)
      atomic_files.write_text(path, text)
      session.say(f'wrote {path}')
