"""Reports errors of a user's own code without the frames of libraries."""

from collections.abc import Iterator
import functools
import linecache
import os
import re
import site
import sysconfig
import traceback

from kd.core import errors

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_NODE = re.compile(r'^\{\{.*?\}\}\s*')
# Bazel runs links to the files, hence the real path.
_KD = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_PACKAGE_FOLDERS = {'site-packages', 'dist-packages'}
_LONGEST = 300  # characters of an exception's message


@functools.cache
def _installed_folders() -> tuple[str, ...]:
  names = ('stdlib', 'platstdlib', 'purelib', 'platlib')
  folders = [sysconfig.get_paths()[name] for name in names]
  folders += [*site.getsitepackages(), site.getusersitepackages()]
  return tuple(os.path.realpath(folder) + os.sep for folder in folders)


def is_installed(path: str) -> bool:
  """Returns whether a file belongs to Python or to an installed package."""
  path = os.path.realpath(path)
  # PYTHONPATH or .pth files may add folders of other environments.
  is_package = not _PACKAGE_FOLDERS.isdisjoint(path.split(os.sep))
  return is_package or path.startswith(_installed_folders())


def refuse(
  error: Exception, path: str, what: str, nearest: str = ''
) -> errors.ConfigError:
  """Returns the ConfigError for an exception of a user's code.

  Its first line is a summary. Below are the traceback lines of the user's code,
  without those of kd, TensorFlow, seqio and Python.

  Args:
    error: exception that the code raised, possibly within TensorFlow.
    path: the config field that names the code.
    what: what failed, e.g. "task 'mine', split 'train'".
    nearest: the closest legal name, if the error is about a name.
  """
  frames = list(dict.fromkeys(_own_frames(error)))
  summary = _summary(error)
  where = ''
  if frames:
    file, line, _ = frames[-1]
    where = f' ({os.path.basename(file)}:{line})'
  lines = []
  for file, line, function in frames:
    lines.append(f'  File "{file}", line {line}, in {function}')
    code = linecache.getline(file, line).strip()
    lines += [f'    {code}'] if code else []
  return errors.ConfigError(
    path, f'{what}: {summary}{where}', nearest=nearest, details='\n'.join(lines)
  )


def _summary(error: Exception) -> str:
  """Returns a line such as "KeyError: 'question'", also within TensorFlow."""
  if hasattr(error, 'ag_error_metadata'):  # Rewritten by Autograph.
    error = error.__cause__ or error.__context__ or error
  text = _NODE.sub('', str(error)).strip()
  if is_python_error(text):
    return text.splitlines()[0][:_LONGEST]
  lines = [line for line in text.splitlines() if line.strip()]
  text = (lines or ['no message'])[0]
  return f'{type(error).__name__}: {text[:_LONGEST]}'


def is_python_error(message: str) -> bool:
  """Returns whether a message of TensorFlow contains a Python traceback."""
  return 'Traceback (most recent call last)' in message


def python_error_name(message: str) -> str:
  """Returns the name of the exception class that such a message begins with.

  Args:
    message: message of a TensorFlow error.
  """
  return _NODE.sub('', message).partition(':')[0].strip()


def _own_frames(error: Exception) -> Iterator[tuple[str, int, str]]:
  """Yields (file, line, function) of the user's code, outermost first."""
  for frame in traceback.extract_tb(error.__traceback__):
    if _is_own(frame.filename):
      yield frame.filename, frame.lineno, frame.name
  for file, line, name in _FRAME.findall(str(error)):
    if _is_own(file):
      yield file, int(line), '<lambda>' if name == 'None' else name


def _is_own(file: str) -> bool:
  if '__autograph_generated_file' in file or not os.path.isfile(file):
    return False
  inside = os.path.realpath(file).startswith(_KD + os.sep)
  return not inside and not is_installed(file)
