"""Finds the command lines of kd in pages and docstrings."""

import pathlib
import re
import shlex

import ml_collections

from kd.config import base
from kd.config import command_line
from kd.config import overrides

_STARTS = r'python -m kd|bazelw? run //:(?:train|plan) --'
# What follows a command on its line.
_END = re.compile(r' (&|\||# ).*')


def commands(place: str) -> list[list[str]]:
  """Returns the arguments of each command of a file, those in blocks first.

  Commands with variables of the shell are left out, but for `$i`, which is 1.
  """
  text = re.sub(r'\s*\\\n\s*', ' ', pathlib.Path(place).read_text())
  lines = re.findall(rf'^[^`\n]*?(?:{_STARTS}) ([^`\n]*)$', text, re.M)
  quoted = re.findall(rf'`(?:{_STARTS}) ([^`]*)`', text)
  found = [_END.sub('', x).replace('$i', '1') for x in (*lines, *quoted)]
  return [shlex.split(x) for x in found if '$' not in x]


def parse(
  arguments: list[str],
) -> tuple[ml_collections.ConfigDict | None, dict[str, str]]:
  """Returns the config of a command, None without one, and its flags."""
  rest, changes = command_line._split(arguments, 'config')
  flags = dict(flag.removeprefix('--').split('=', 1) for flag in rest)
  if 'config' not in flags:
    return None, flags
  config = command_line.load(flags['config'])
  return base.checked(overrides.apply(config, changes)), flags
