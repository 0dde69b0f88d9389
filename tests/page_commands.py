"""Finds the command lines of kd in pages and docstrings."""

import pathlib
import re
import shlex

import ml_collections

from kd import modes
from kd.config import base
from kd.config import command_line
from kd.config import overrides

_STARTS = r'python -m kd|bazelw? run //:(?:train|plan) --'
# The rest of a line after a command.
_END = re.compile(r' (&|\||# ).*')


def commands(place: str) -> list[list[str]]:
  """Returns the arguments of each command in a file, those in blocks first.

  Commands with shell variables are omitted, except for `$i`, replaced with 1.
  """
  text = re.sub(r'\s*\\\n\s*', ' ', pathlib.Path(place).read_text())
  lines = re.findall(rf'^[^`\n]*?(?:{_STARTS}) ([^`\n]*)$', text, re.M)
  quoted = re.findall(rf'`(?:{_STARTS}) ([^`]*)`', text)
  found = [_END.sub('', x).replace('$i', '1') for x in (*lines, *quoted)]
  return [shlex.split(x) for x in found if '$' not in x]


def parse(
  arguments: list[str],
) -> tuple[ml_collections.ConfigDict | None, dict[str, str]]:
  """Returns the config of a command, or None, and its flags.

  The words after a mode become the flag `words`, joined with spaces.
  """
  rest, changes = command_line._split(arguments, 'config')
  given = [x for x in rest if x.startswith('-')]
  flags = dict(flag.removeprefix('--').split('=', 1) for flag in given)
  mode, *words = [x for x in rest if not x.startswith('-')] or ['']
  if mode:
    flags['mode'] = mode
  if words:
    flags['words'] = shlex.join(words)
  if 'config' in flags:
    config = command_line.load(flags['config'])
  elif 'mode' in flags and modes.get(flags['mode'], '--mode').config_optional:
    config = base.get_config()
  else:
    return None, flags
  return base.checked(overrides.apply(config, changes)), flags
