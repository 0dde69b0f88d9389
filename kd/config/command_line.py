"""The flag --config: a file with get_config(), and flags that change fields.

  --config=FILE.py              or --config FILE.py, or FILE.py:ARGUMENT
  --config=NAME                 a config that comes with kd
  --config.data.length=512      changes a field
  --config.data.pack            is --config.data.pack=True
  --noconfig.data.pack          is --config.data.pack=False
  --config.losses.kl.name=X     makes that term an X with X's defaults

Names are changed first, regardless of the order of the flags, so arguments of
the new name can be set too. A --flagfile may contain any of these.
"""

from collections.abc import Callable, Sequence
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback

from absl import flags
import ml_collections

from kd.config import base
from kd.config import check
from kd.config import legal as legal_lib
from kd.config import overrides as overrides_lib
from kd.config import packaged
from kd.core import errors
from kd.core import paths

# The flag is a key flag of the module that calls `define`.
flags.disclaim_key_flags()

_EXAMPLE = (
  'a file, FILE.py or FILE.py:ARGUMENT, or a name such as quickstart; without '
  'it, the --workdir of a run'
)

# Called with the arguments that are not flags.
Default = Callable[[Sequence[str]], ml_collections.ConfigDict | None]


class _Parser(flags.ArgumentParser):
  """Parses the flag's value, which is the location of the config."""

  def __init__(self, name: str):
    self._flag = f'--{name}'
    self.location = ''

  def parse(self, argument: str) -> ml_collections.ConfigDict:
    self.location = argument
    return load(argument, self._flag)


def define(name: str = 'config') -> flags.FlagHolder:
  """Defines the flag; its value is the config after parse_flags has run."""
  return flags.DEFINE(
    _Parser(name),
    name,
    None,
    'The config: NAME or FILE.py, or either:ARGUMENT.',
  )


def default_workdir(name: str = 'config') -> str | None:
  """Returns the default workdir, which is named after the config.

  Args:
    name: name of the config flag.

  Returns:
    kd-NAME in the current folder; None if the flag is not given.
  """
  file = flags.FLAGS[name].parser.location.partition(':')[0]
  return f'kd-{pathlib.Path(file).stem}' if file else None


def parse_flags(
  argv: Sequence[str],
  flag_name: str = 'config',
  default: Default = lambda words: None,
  arguments: Callable[[], str] = lambda: '',
) -> list[str]:
  """Parses the command line for absl's app.run.

  Args:
    argv: the command line.
    flag_name: name of the config flag.
    default: function that is called after parsing if the flag is not given;
      returns the config, or None if the flag is required.
    arguments: function that is called after parsing; returns the legal
      arguments that are not flags, as in the help, or '' if there are none.

  Returns:
    The program's name and the arguments that are not flags.

  Raises:
    SystemExit: the command line is wrong; an error message was printed.
  """
  try:
    return _parse(argv, flag_name, default, arguments)
  except errors.KdError as e:
    message, code = str(e), e.exit_code
  except (flags.Error, TypeError, ValueError) as e:
    message, code = str(e), errors.ConfigError.exit_code
  except KeyboardInterrupt:
    message, code = 'interrupted', 130
  print(f'kd: error: {message}', file=sys.stderr)
  raise SystemExit(code)


def _parse(argv, flag_name, default, arguments):
  if any(re.match(r'-{1,2}help', a) for a in argv):
    return flags.FLAGS(argv)
  rest, changes = _split(_expanded(argv[1:]), flag_name)
  stray = flags.FLAGS([argv[0], *rest])
  if len(stray) > 1 and not arguments():
    raise errors.ConfigError('command line', f'stray argument {stray[1]!r}')
  flag = flags.FLAGS[flag_name]
  if flag.value is None:
    flag.value = default(stray[1:])
  if flag.value is None:
    raise errors.ConfigError(f'--{flag_name}', 'not given', legal=_EXAMPLE)
  flag.value = base.checked(overrides_lib.apply(flag.value, changes))
  return stray


def _expanded(arguments):
  """Returns the arguments with --flagfile replaced by its contents."""
  try:
    return flags.FLAGS.read_flags_from_files(list(arguments), force_gnu=True)
  except UnicodeDecodeError as e:
    raise errors.ConfigError(
      '--flagfile', f'is not UTF-8: {e.reason}', legal='a text file of flags'
    ) from e


def _split(
  arguments: Sequence[str], flag_name: str
) -> tuple[list[str], list[overrides_lib.Override]]:
  """Separates the flags that change fields from other arguments.

  Args:
    arguments: command-line arguments without the program's name.
    flag_name: name of the config flag.

  Returns:
    All other arguments, and the changes in order.

  Raises:
    ConfigError: the config is given twice, or a change has no value.
  """
  rest, changes, files = [], [], 0
  waiting = list(arguments)
  changed = re.compile(rf'-{{1,2}}(no)?{flag_name}\.([^=\s]+)(?:=(.*))?', re.S)
  while waiting:
    argument = waiting.pop(0)
    if argument == '--':
      rest += [argument, *waiting]
      break
    # A line of a flagfile may contain a flag and its value.
    spaced = re.fullmatch(rf'(-{{1,2}}{flag_name})\s+(.+)', argument)
    if spaced:
      argument = '='.join(spaced.groups())
    files += bool(re.match(rf'-{{1,2}}{flag_name}(=|$)', argument))
    match = changed.fullmatch(argument)
    if not match:
      rest.append(argument)
      continue
    negated, path, value = match.groups()
    if negated and value is None:
      value = 'False'
    elif value is None and overrides_lib.is_boolean(path):
      value = 'True'
    elif value is None:
      if not waiting:
        raise errors.ConfigError(path, f'{argument} has no value')
      value = waiting.pop(0)
    changes.append(overrides_lib.Override(path, value, argument))
  if files > 1:
    raise errors.ConfigError(
      f'--{flag_name}', f'given {files} times', legal='once'
    )
  return rest, changes


def load(location: str, flag: str = '--config') -> ml_collections.ConfigDict:
  """Runs get_config of `FILE`, `NAME`, `FILE:ARGUMENT` or `NAME:ARGUMENT`.

  Args:
    location: location of the config.
    flag: name of the flag or argument, for messages.

  Returns:
    The unchecked result of get_config.

  Raises:
    ConfigError: the file does not exist or fails.
  """
  file, colon, argument = location.partition(':')
  file = _file(file, flag)
  get_config = getattr(_module(file), 'get_config', None)
  if not callable(get_config):
    raise errors.ConfigError(
      file, 'defines no get_config', legal='a function get_config()'
    )
  arguments = [argument] if colon else []
  _check_takes(get_config, arguments, location, flag)
  try:
    config = get_config(*arguments)
  except (Exception, SystemExit) as e:
    raise _failed(e, file) from e
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.ConfigError(
      file,
      f'get_config returned {type(config).__name__}',
      legal='an ml_collections.ConfigDict',
    )
  return config


def _file(name, flag):
  """Returns the path of a config file, given its path or a name."""
  file = paths.expand(name)
  if os.path.isfile(file):
    return file
  if name in packaged.names():
    return packaged.file(name)
  folder = os.path.dirname(file) or '.'
  there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  there = [os.path.join(folder, f) for f in there if f.endswith('.py')]
  named = re.fullmatch(r'[\w-]+', name)
  if named:
    there = [*packaged.names(), *there]
  raise errors.ConfigError(
    flag,
    f'no {"config" if named else "file"} {file!r} (in {os.getcwd()})',
    legal=', '.join(there) or 'a Python file with get_config()',
    nearest=errors.nearest(file, there),
  )


def _module(file):
  """Imports a config file."""
  name = 'kd_config_file'
  spec = importlib.util.spec_from_file_location(name, file)
  if spec is None:
    raise errors.ConfigError(
      '--config', f'found {file!r}', legal='a Python file, NAME.py'
    )
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as e:
    raise _failed(e, file) from e
  return module


def _check_takes(get_config, arguments, location, flag):
  try:
    inspect.signature(get_config).bind(*arguments)
  except TypeError as e:
    file = location.partition(':')[0]
    legal = file if arguments else f'{file}:ARGUMENT'
    raise errors.ConfigError(
      flag, f'found {location!r}, and get_config: {e}', legal=legal
    ) from e


def _last_part(error):
  """Returns the part of a config whose method raised the error, or None."""
  part = None
  for frame, _ in traceback.walk_tb(error.__traceback__):
    holder = frame.f_locals.get('self')
    if isinstance(holder, ml_collections.ConfigDict):
      part = holder
  return part


def _failed(error: BaseException, file: str) -> errors.KdError:
  """Returns the error to show for an exception that a config file raised."""
  if isinstance(error, errors.KdError):
    return error
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if os.path.abspath(frame.filename) == os.path.abspath(file)
  ]
  if isinstance(error, SyntaxError) and error.filename == file:
    lines.append(error.lineno)
  where = f'{file}:{lines[-1]}' if lines else file
  missing = re.match(r'\W*Key "([^"]*)" does not exist', str(error))
  part = _last_part(error)
  if missing and part is not None:
    name, fields = missing[1], list(map(str, part))
    renamed = check.renamed_among(name, fields, base.ROOT)
    return errors.unknown(where, 'field', name, fields, renamed)
  text = legal_lib.shown(str(error))[1:-1]
  return errors.ConfigError(where, f'{type(error).__name__}: {text}')
