"""Lists the versions of a registry and checks their files."""

from collections.abc import Iterator

from kd.versions import changes
from kd.versions import state as state_lib

_HEADER = ('version', 'stage', 'verdict', 'added', 'MiB', 'weights', 'from')


def table(registry: str) -> list[str]:
  """Returns the lines of a table of all versions, oldest first."""
  state = changes.read(registry)
  if not state.versions:
    return [f'{registry}: no versions; kd registry add MODEL adds one']
  rows = [_HEADER]
  for version in state.versions.values():
    stage = state.stage(version.name)
    if version.name == state.fallback:
      stage += ' (fallback)'
    rows.append(
      (
        version.name,
        stage,
        version.report['verdict'] if version.report else '-',
        version.date,
        f'{version.bytes / 2**20:.1f}',
        version.provenance['dtype'],
        str(version.provenance['source']),
      )
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]


def findings(registry: str) -> Iterator[tuple[bool, str]]:
  """Yields whether the files of each version are unchanged, and a message.

  Raises:
    ConfigError: the journal is damaged.
  """
  state = changes.read(registry)
  for version in state.versions.values():
    problems = changes.problems(registry, version)
    for line in problems:
      yield False, line
    if not problems:
      yield True, _line(state, version)
  for name in changes.unnamed(registry, state):
    yield (
      True,
      f'{name}: left by an interrupted command; removed by the next change',
    )


def _line(state: state_lib.State, version: state_lib.Version) -> str:
  stage = state.stage(version.name)
  return f'{version.name} ({stage}): {len(version.files)} files'
