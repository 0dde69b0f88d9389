"""Manages the versions of a model and their stages."""

from collections.abc import Sequence

import ml_collections

from kd.core import errors
from kd.core import paths
from kd.run import session
from kd.versions import changes
from kd.versions import listing
from kd.versions import state

ARGUMENTS = (
  'add MODEL [REPORT] | list | promote VERSION STAGE | rollback [STAGE] | '
  'verify | prune'
)
CONFIG_OPTIONAL = True

# Minimum and maximum number of arguments by command.
_WORDS = {
  'add': (1, 2),
  'list': (0, 0),
  'promote': (2, 2),
  'rollback': (0, 1),
  'verify': (0, 0),
  'prune': (0, 0),
}


def main(
  config: ml_collections.ConfigDict, workdir: str | None, arguments: list[str]
) -> None:
  """Reads or changes the registry in `registry.folder`; see docs/versions.md.

  Raises:
    ConfigError: a command is wrong or refused.
  """
  del workdir
  command, words = _parsed(arguments)
  session.devices(config)
  session.check_one_process('registry')
  settings, say = config.registry, session.say
  folder = paths.expand(settings.folder)
  if command == 'add':
    model, report = [paths.expand(word) for word in (*words, '')[:2]]
    changes.add(folder, model, report, say)
  elif command == 'promote':
    changes.promote(folder, settings, *words, say)
  elif command == 'rollback':
    changes.rollback(folder, *(words or [state.PRODUCTION]), say)
  elif command == 'prune':
    changes.prune(folder, settings.keep, say)
  elif command == 'verify':
    _verify(folder)
  else:
    for line in listing.table(folder):
      say(line)


def _parsed(arguments: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the command and its arguments."""
  command, *words = arguments or ['']
  if command not in _WORDS:
    raise errors.unknown(
      'command line', 'command of kd registry', command, list(_WORDS)
    )
  least, most = _WORDS[command]
  if not least <= len(words) <= most:
    (usage,) = [x for x in ARGUMENTS.split(' | ') if x.startswith(command)]
    raise errors.ConfigError(
      'command line',
      f'found {len(words)} words after {command}',
      legal=f'kd registry {usage}',
    )
  return command, words


def _verify(folder: str) -> None:
  differing = 0
  for is_true, line in listing.findings(folder):
    session.say(f'{"agrees" if is_true else "differs"}: {line}')
    differing += not is_true
  if differing:
    raise errors.ConfigError(
      folder, f'{differing} files have changed since they were added'
    )
