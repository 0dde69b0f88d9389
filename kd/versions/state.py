"""Computes the state of a registry from the changes in its journal."""

from collections.abc import Iterable, Mapping
import dataclasses
import itertools
import os
from typing import Any

from kd.core import errors
from kd.core import layout

CANDIDATE, CANARY, PRODUCTION = 'candidate', 'canary', 'production'
# Stages that a version can be promoted to.
STAGES = (CANARY, PRODUCTION)


@dataclasses.dataclass(frozen=True)
class Version:
  """A version of the model.

  Attributes:
    name: name such as 'v3', which is never reused in a registry.
    date: date when it was added.
    model: description from `compatibility.describe`.
    files: `bytes` and `sha256` by file name.
    provenance: `source`, `weights` and `dtype` of its provenance.
    report: benchmark report or None: `file` in the registry, `sha256`,
      `verdict`, and `reference`, the model that it was compared with.
    check: check of its latest promotion, kept after a rollback; None if it was
      never promoted.
  """

  name: str
  date: str
  model: Mapping[str, Any]
  files: Mapping[str, Mapping[str, Any]]
  provenance: Mapping[str, Any]
  report: Mapping[str, Any] | None
  check: Mapping[str, Any] | None = None

  def folder(self, registry: str) -> str:
    """Returns the folder of its files."""
    return os.path.join(registry, layout.VERSIONS, self.name)

  def init(self, registry: str) -> str:
    """Returns the value of `student.init` for its weights."""
    kind, folder = self.model['kind'], self.folder(registry)
    if kind == 'gguf':
      (file,) = (name for name in self.files if name.endswith('.gguf'))
      folder = os.path.join(folder, file)
    return f'{kind}:{folder}'

  @property
  def bytes(self) -> int:
    """Returns the size of its files."""
    return sum(file['bytes'] for file in self.files.values())


@dataclasses.dataclass(frozen=True)
class State:
  """The versions and their stages.

  Attributes:
    versions: versions by name, oldest first.
    productions: names of all versions promoted to production and not rolled
      back, the current one last.
    canary: name of the canary; None without one.
    added: number of versions ever added.
  """

  versions: Mapping[str, Version] = dataclasses.field(default_factory=dict)
  productions: tuple[str, ...] = ()
  canary: str | None = None
  added: int = 0

  @property
  def production(self) -> str | None:
    """Returns the name of the version in production; None without one."""
    return self.productions[-1] if self.productions else None

  @property
  def fallback(self) -> str | None:
    """Returns the name of the version that a rollback returns to, or None."""
    return self.productions[-2] if len(self.productions) > 1 else None

  def stage(self, name: str) -> str:
    """Returns the stage of a version."""
    if name == self.production:
      return PRODUCTION
    return CANARY if name == self.canary else CANDIDATE

  def get(self, name: str) -> Version:
    """Returns the version with a name.

    Raises:
      ConfigError: there is no such version.
    """
    if name not in self.versions:
      raise errors.unknown('command line', 'version', name, list(self.versions))
    return self.versions[name]


def replay(records: Iterable[Mapping[str, Any]]) -> State:
  """Returns the state after the changes of a journal.

  Raises:
    ConfigError: a change is unknown.
  """
  state = State()
  for record in records:
    change = record.get('change')
    if change not in _CHANGES:
      raise errors.unknown(
        f'change {record.get("number")} of the registry',
        'change',
        str(change),
        list(_CHANGES),
      )
    state = _CHANGES[change](state, record)
  return state


def _add(state, record):
  version = Version(
    name=record['version'],
    date=record['date'],
    model=record['model'],
    files=record['files'],
    provenance=record['provenance'],
    report=record['report'],
  )
  return dataclasses.replace(
    state,
    versions={**state.versions, version.name: version},
    added=state.added + 1,
  )


def _changed(state, name, **changes):
  version = dataclasses.replace(state.versions[name], **changes)
  return {**state.versions, name: version}


def _report(state, record):
  versions = _changed(state, record['version'], report=record['report'])
  return dataclasses.replace(state, versions=versions)


def _promote(state, record):
  name = record['version']
  versions = _changed(state, name, check=record['check'])
  state = dataclasses.replace(state, versions=versions)
  if record['stage'] == CANARY:
    return dataclasses.replace(state, canary=name)
  return dataclasses.replace(
    state,
    productions=(*state.productions, name),
    canary=None if state.canary == name else state.canary,
  )


def _rollback(state, record):
  if record['stage'] == CANARY:
    return dataclasses.replace(state, canary=None)
  return dataclasses.replace(state, productions=state.productions[:-1])


def _prune(state, record):
  gone = set(record['versions'])
  productions = (n for n in state.productions if n not in gone)
  return dataclasses.replace(
    state,
    versions={n: v for n, v in state.versions.items() if n not in gone},
    productions=tuple(n for n, _ in itertools.groupby(productions)),
  )


_CHANGES = {
  'add': _add,
  'report': _report,
  'promote': _promote,
  'rollback': _rollback,
  'prune': _prune,
}
