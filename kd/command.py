"""The arguments of the command line: kd MODE --config=... --workdir=...

`kd MODE` is `python -m kd --mode=MODE`. This file prints the help and the
version itself, without importing any library.
"""

from collections.abc import Sequence
import itertools
import re
import textwrap

import kd
from kd import modes
from kd.config import packaged
from kd.core import errors

_USAGE = """\
kd distills large language models into small ones.

usage: kd MODE [ARGUMENT ...] --config=CONFIG [--workdir=DIR]
          [--config.FIELD=VALUE ...]

{modes}

  --config=CONFIG       a file with get_config(), FILE.py or FILE.py:ARGUMENT,
                        or the name of a config of kd:
                        {configs}.
                        Without it, the config of the run in --workdir.
  --workdir=DIR         where the run writes, and resumes from; without it
                        kd-NAME, by the name of the config
  --config.FIELD=VALUE  changes a field, such as --config.steps=100; `kd check`
                        prints what a config means
  --help, --version, and --helpfull for the flags of all libraries

python -m kd takes the same arguments, and --mode=MODE for MODE."""
_HELP = ('-h', '-help', '--help', '-helpshort', '--helpshort', 'help')


def answer(arguments: Sequence[str]) -> str | None:
  """Returns the help or the version, if the arguments ask for it, else None.

  Args:
    arguments: command-line arguments without the program's name.
  """
  if not arguments or any(a in _HELP for a in arguments):
    return help_text()
  if any(re.fullmatch('-{1,2}version', a) for a in arguments):
    return f'kd {kd.__version__}'
  return None


def help_text() -> str:
  """Returns the text that `kd --help` prints."""
  return _USAGE.format(
    modes='\n'.join(itertools.starmap(_line, modes.all_modes().items())),
    configs=textwrap.fill(', '.join(packaged.names()), 56).replace(
      '\n', '\n' + ' ' * 24
    ),
  )


def _line(name: str, mode: modes.Mode) -> str:
  called = f'{name} {mode.arguments}'.rstrip()
  gap = '\n' + ' ' * 12 if len(called) > 9 else ' ' * (10 - len(called))
  return f'  {called}{gap}{mode.help}'


def with_mode(arguments: Sequence[str]) -> list[str]:
  """Returns the arguments with a leading MODE replaced by --mode=MODE.

  Args:
    arguments: command-line arguments without the program's name.

  Raises:
    ConfigError: the mode does not exist, or the flag --mode is given too.
  """
  if not arguments or arguments[0].startswith('-'):
    return list(arguments)
  mode, *rest = arguments
  modes.get(mode, 'command line')
  if any(re.match('-{1,2}mode(=|$)', a) for a in rest):
    raise errors.ConfigError(
      'command line', f'found {mode} and --mode', legal='one of them'
    )
  return [f'--mode={mode}', *rest]
