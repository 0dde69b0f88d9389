"""Changes a registry; each command appends one line to its journal, or none.

Files are written before the line that names them, and removed after the line
that drops them. A killed command may leave unnamed files, which the next
command removes.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import re
import shutil
from typing import Any

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import layout
from kd.core import objects
from kd.run import lock
from kd.run import provenance
from kd.versions import compatibility
from kd.versions import journal
from kd.versions import model_files
from kd.versions import reports
from kd.versions import state as state_lib

FIELD = 'registry.folder'
# Names that commands write in each folder, including temporary ones.
_OWN = {
  layout.VERSIONS: re.compile(r'\.?v\d+(\..*)?'),
  reports.FOLDER: re.compile(r'[0-9a-f]+\.json(\..*)?'),
}
Say = Callable[[str], None]


def read(registry: str) -> state_lib.State:
  """Returns the state of a registry, without a lock.

  Args:
    registry: folder of the registry, or the local copy of one in a bucket.

  Raises:
    ConfigError: the journal is damaged.
  """
  return state_lib.replay(journal.read(registry))


def add(registry: str, model: str, report: str, say: Say) -> None:
  """Adds an exported model as a candidate, or a report to a version.

  Args:
    registry: folder of the registry; created if it is missing.
    model: the export: a folder for transformers, or a GGUF file.
    report: path of a report of --mode=benchmark; '' for none yet.
    say: prints a line.

  Raises:
    ConfigError: the files have changed since the export, kd cannot load the
      model, or the report has no verdict or is about different weights.
  """
  *_, claims_file = model_files.located(model)
  if report:
    claimed = provenance.read(claims_file)['student']
    reports.check_weights(report, claimed.get('weights'))
  with _changing(registry, say) as state:
    digest = identity.file_digest(claims_file)
    name = os.path.basename(claims_file)
    for version in state.versions.values():
      if version.files.get(name, {}).get('sha256') == digest:
        model_files.check(model)
        _add_report(registry, version, report, say)
        return
    name = f'v{state.added + 1}'
    folder = os.path.join(registry, layout.VERSIONS, name)
    _check_new(folder)
    with atomic_files.replaced_folder(folder) as new:
      init, files, claims = model_files.copy(model, new)
      description = compatibility.describe(init, model)
    atomic_files.sync(os.path.dirname(folder))
    fields = {
      'version': name,
      'model': description,
      'files': files,
      'provenance': {
        'source': claims['student'].get('source'),
        'weights': claims['student'].get('weights'),
        'dtype': claims['dtype'],
      },
      'report': reports.store(registry, report) if report else None,
    }
    journal.append(registry, 'add', fields)
    say(f'{name} is a candidate: {model}')


def _check_new(folder):
  """Raises ConfigError if a new version would replace unrelated files."""
  # A killed command may leave a complete version, which is replaced.
  with contextlib.suppress(FileNotFoundError):
    names = os.listdir(folder)
    if not any(name.endswith(provenance.FILE) for name in names):
      raise errors.ConfigError(
        FIELD,
        f'{folder!r} already exists and is not a version',
        legal='a new folder',
      )


def _add_report(registry, version, report, say):
  stored = reports.store(registry, report) if report else version.report
  if stored == version.report:
    say(f'{version.name} already contains this model; no change')
    return
  journal.append(
    registry, 'report', {'version': version.name, 'report': stored}
  )
  say(f'{version.name} has a report: {stored["verdict"]}')


def promote(
  registry: str, settings: Any, name: str, stage: str, say: Say
) -> None:
  """Promotes a version to canary or production.

  Args:
    registry: folder of the registry.
    settings: section `registry` of the config.
    name: name of the version.
    stage: a name in state.STAGES.
    say: prints a line.

  Raises:
    ConfigError: its report does not admit it, its files have changed, or it is
      not compatible with the version in production.
  """
  if stage not in state_lib.STAGES:
    raise errors.unknown('command line', 'stage', stage, list(state_lib.STAGES))
  with _changing(registry, say) as state:
    version = state.get(name)
    if state.stage(name) == stage:
      say(f'{name} is already in stage {stage}; no change')
      return
    if name == state.production:
      raise errors.ConfigError(
        'command line',
        f'{name} is in production',
        legal='another version, or kd registry rollback first',
      )
    before = state.production if stage == state_lib.PRODUCTION else state.canary
    journal.append(
      registry,
      'promote',
      {
        'version': name,
        'stage': stage,
        'replaces': before,
        'check': _admit(registry, settings, state, version),
      },
    )
    instead = f' in place of {before}' if before else ''
    say(f'{name} is in stage {stage}{instead}')


def _admit(registry, settings, state, version):
  """Checks that a version may be promoted; returns the journal's `check`."""
  reports.check(version.name, version.report, settings.admit)
  production = state.production
  if production:
    running = state.versions[production]
    compatibility.check(
      *(version.name, version.model, production, running.model),
      settings.compatible,
    )
  _check_files(registry, version)
  return {
    'verdict': version.report['verdict'],
    'report': version.report['file'],
    'compared_with': production,
    'compatible': list(settings.compatible) if production else [],
    'files': len(version.files),
  }


def problems(registry: str, version: state_lib.Version) -> list[str]:
  """Returns how the files and report of a version differ from the journal."""
  folder = version.folder(registry)
  buckets.fetch(folder, check=False)
  lines = model_files.problems(folder, version.files)
  if version.report:
    lines += filter(None, [reports.problem(registry, version.report)])
  return lines


def _check_files(registry, version):
  lines = problems(registry, version)
  if lines:
    raise errors.ConfigError(
      version.folder(registry),
      f'the files of {version.name} have changed since they were added',
      legal='kd registry add, from the export',
      details='\n'.join(lines),
    )


def rollback(registry: str, stage: str, say: Say) -> None:
  """Returns to the previous version in production, or removes the canary.

  Args:
    registry: folder of the registry.
    stage: stage to roll back; its version becomes a candidate.
    say: prints a line.

  Raises:
    ConfigError: there is no version to roll back or to return to, or the files
      of the latter have changed.
  """
  if stage not in state_lib.STAGES:
    raise errors.unknown('command line', 'stage', stage, list(state_lib.STAGES))
  with _changing(registry, say) as state:
    if stage == state_lib.CANARY:
      name, to = state.canary, None
    else:
      name, to = state.production, state.fallback
    if name is None or (stage == state_lib.PRODUCTION and to is None):
      raise errors.ConfigError(
        'command line',
        f'no version is in stage {stage}'
        if name is None
        else f'no version was in production before {name}',
        legal='kd registry list shows the stages',
      )
    if to:
      _check_files(registry, state.versions[to])
    fields = {'version': name, 'stage': stage, 'returns_to': to}
    journal.append(registry, 'rollback', fields)
    back = f'; {to} is in production' if to else ''
    say(f'{name} is a candidate again{back}')


def prune(registry: str, keep: int, say: Say) -> None:
  """Removes old candidates and their files.

  Keeps the versions in stages and the one that a rollback returns to.

  Args:
    registry: folder of the registry.
    keep: number of latest candidates to keep.
    say: prints a line.
  """
  with _changing(registry, say) as state:
    used = {state.production, state.fallback, state.canary}
    candidates = [name for name in state.versions if name not in used]
    gone = candidates[: max(len(candidates) - keep, 0)]
    if gone:
      journal.append(registry, 'prune', {'versions': gone})
      _remove_unnamed(registry, read(registry))
    say(f'removed: {", ".join(gone) or "nothing"}')


@contextlib.contextmanager
def _changing(registry: str, say: Say) -> Iterator[state_lib.State]:
  """Locks a registry, removes unnamed files, and yields the state."""
  with lock.shared(registry, FIELD, say):
    state = read(registry)
    _remove_unnamed(registry, state)
    yield state


def unnamed(registry: str, state: state_lib.State) -> list[str]:
  """Returns files and folders of versions and reports that no line names.

  Includes only names that commands of a registry write.
  """
  if not state.added:
    return []  # The folder may not be a registry.
  kept = {os.path.join(layout.VERSIONS, name) for name in state.versions}
  kept |= {v.report['file'] for v in state.versions.values() if v.report}
  # A newer report may have replaced the one that admitted a version.
  kept |= {v.check['report'] for v in state.versions.values() if v.check}
  there, remote = set(), buckets.remote(registry)
  for folder in (layout.VERSIONS, reports.FOLDER):
    names = []
    with contextlib.suppress(FileNotFoundError):
      names = os.listdir(os.path.join(registry, folder))
    if objects.is_url(remote):
      below = objects.names(f'{remote}/{folder}')
      names += [name.partition('/')[0] for name in below]
    own = filter(_OWN[folder].fullmatch, names)
    there |= {os.path.join(folder, name) for name in own}
  return sorted(there - kept)


def _remove_unnamed(registry, state):
  remote = buckets.remote(registry)
  for name in unnamed(registry, state):
    path = os.path.join(registry, name)
    if os.path.isdir(path):
      shutil.rmtree(path)
    elif os.path.exists(path):
      os.unlink(path)
    if objects.is_url(remote):
      objects.remove_folder(f'{remote}/{name}')
      objects.remove([f'{remote}/{name}'])
