"""Configs: the flag, validation against the base, freezing, differences."""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
import re
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from kd.core import errors

# Sub-dicts whose keys are chosen by the user or by a part's signature.
OPEN = (
  'losses',
  'optimizer',
  'evaluation.sets',
  'objective.positions',
  'teacher.others',
  'cache.method',
  'data.rationale',
  'rollout',
)


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Leaves by dotted path; an empty sub-dict is a leaf."""
  leaves = {}
  for key, value in config.items():
    path = f'{prefix}{key}'
    if isinstance(value, Mapping | ml_collections.ConfigDict) and len(value):
      leaves.update(flatten(value, f'{path}.'))
    else:
      leaves[path] = value
  return leaves


def to_json(config: ml_collections.ConfigDict) -> str:
  """The resolved config as JSON, keys in order; tuples become lists."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
  """Yields (path, old value, new value) of each leaf that differs."""
  absent = 'absent'
  before, after = flatten(old), flatten(new)
  for path in sorted(before.keys() | after.keys()):
    pair = before.get(path, absent), after.get(path, absent)
    if pair[0] != pair[1]:
      yield path, *pair


def refuse_differences(
  found: Mapping[str, Any],
  wanted: Mapping[str, Any],
  path: str,
  what: str,
  legal: str,
  beside: tuple[str, ...] = (),
) -> None:
  """Refuses what a folder holds, where it is of something else.

  Args:
    found: what it is of, as JSON.
    wanted: what it must be of; as JSON has it, where tuples are lists.
    path: of the flag or field that names the folder.
    what: the folder holds, as the message says it.
    legal: what would be.
    beside: beginnings of the fields that may differ.

  Raises:
    ConfigError: names each field that differs, with both values.
  """
  wanted = json.loads(json.dumps(wanted))
  lines = [
    f'{field}: there {there!r}, now {now!r}'
    for field, there, now in differences(found, wanted)
    if not (beside and field.startswith(beside))
  ]
  if lines:
    raise errors.ConfigError(path, what + ':\n  ' + '\n  '.join(lines), legal)


def _is_dict(value):
  return isinstance(value, ml_collections.ConfigDict | dict)


def _type_fits(value, default):
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(default, bool) and isinstance(value, bool)
  if isinstance(default, float):
    return isinstance(value, int | float)
  if isinstance(default, tuple):
    return isinstance(value, tuple | list)
  return isinstance(value, type(default))


def check_fields(config: Any, base: Any, prefix: str = '') -> None:
  """Refuses fields that `base` lacks, misses or holds with another type.

  Args:
    config: a ConfigDict, or a part of one.
    base: the same part of configs/base.py's.
    prefix: path of that part, with a dot at its end.

  Raises:
    ConfigError: names the first such field.
  """
  for key in config:
    if key not in base:
      raise errors.unknown(f'{prefix}{key}', 'field', key, list(base))
  for key, default in base.items():
    path = f'{prefix}{key}'
    if key not in config:
      raise errors.ConfigError(path, 'missing: configs/base.py has it')
    value = config[key]
    if _is_dict(default) != _is_dict(value) or (
      not _is_dict(default) and not _type_fits(value, default)
    ):
      raise errors.ConfigError(
        path,
        f'found {value!r} of type {type(value).__name__}',
        legal=type(default).__name__,
      )
    if _is_dict(default) and path not in OPEN:
      check_fields(value, default, f'{path}.')


def check_argument_types(
  spec: Mapping[str, Any], like: Mapping[str, Any], path: str
) -> None:
  """Refuses arguments whose type differs from that in `like`."""
  for key, value in spec.items():
    if key in like and not _is_dict(value) and not _type_fits(value, like[key]):
      raise errors.ConfigError(
        f'{path}.{key}',
        f'found {value!r} of type {type(value).__name__}',
        legal=type(like[key]).__name__,
      )


def _check_overrides(argv, flag_name):
  """Names the first --config.x.y whose path the config file lacks."""
  chosen = [a for a in argv if re.match(rf'-{{1,2}}{flag_name}=', a)]
  if not chosen:
    raise errors.ConfigError(
      f'--{flag_name}',
      'not given',
      legal='a file such as '
      'configs/quickstart.py, or one with an argument: FILE:ARGUMENT',
    )
  if len(chosen) > 1:
    raise errors.ConfigError(
      f'--{flag_name}', f'given {len(chosen)} times', legal='once'
    )
  location = chosen[0].split('=', 1)[1]
  config = load(location, flag_name)
  for argument in argv:
    match = re.match(rf'-{{1,2}}(no)?{flag_name}\.([^=]+)', argument)
    if not match:
      continue
    node, path = config, match.group(2)
    for depth, key in enumerate(path.split('.')):
      if not _is_dict(node) or key not in node:
        parent = '.'.join(path.split('.')[:depth]) or 'the config'
        legal = list(node) if _is_dict(node) else []
        error = errors.unknown(path, 'field', key, legal)
        raise errors.ConfigError(
          path,
          f'no field {key!r} in {parent} ({argument})',
          legal=', '.join(legal) or f'{parent} is a value',
          nearest=errors.nearest(key, legal),
        ) from error
      node = node[key]


def load(location: str, flag_name: str) -> ml_collections.ConfigDict:
  """Runs get_config of `FILE` or `FILE:ARGUMENT`.

  Raises:
    ConfigError: there is no such file, or it fails.
  """
  file = location.split(':', 1)[0]
  if not os.path.isfile(file):
    folder = os.path.dirname(file) or '.'
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    there = [os.path.join(folder, f) for f in there if f.endswith('.py')]
    raise errors.ConfigError(
      f'--{flag_name}',
      f'no file {file!r} (in {os.getcwd()})',
      legal=', '.join(there) or 'a Python file with get_config()',
      nearest=errors.nearest(file, there),
    )
  try:
    config = config_flags.config_flags.ConfigFileFlagParser(flag_name).parse(
      location
    )
  except errors.KdError:
    raise
  except Exception as e:
    raise errors.ConfigError(file, f'get_config failed: {e}') from e
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.ConfigError(
      file,
      f'get_config returned {type(config).__name__}',
      legal='an ml_collections.ConfigDict',
    )
  return config


def parse_flags(argv: Sequence[str], flag_name: str = 'config') -> list[str]:
  """Parses the command line; for absl's app.run.

  Args:
    argv: the command line.
    flag_name: the flag of the config file.

  Returns:
    The arguments that are no flags.

  Raises:
    SystemExit: 2, after a message that names what is wrong.
  """
  try:
    asks_help = any(re.match(r'-{1,2}help', a) for a in argv)
    if not asks_help:
      _check_overrides(argv, flag_name)
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise errors.ConfigError('command line', f'stray argument {rest[1]!r}')
    return rest
  except errors.KdError as e:
    message, code = str(e), e.exit_code
  except (flags.Error, TypeError, ValueError) as e:
    message, code = str(e), errors.ConfigError.exit_code
  print(f'kd: error: {message}', file=sys.stderr)
  raise SystemExit(code)
