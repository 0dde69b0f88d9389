"""The errors that end a run, each with its documented exit code."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import difflib
import errno

_LONGEST = 120  # Maximum number of characters of a name in a message.
NAMED = 3  # Maximum number of names in a message.


class KdError(Exception):
  """An error with a message for the user; main prints no traceback.

  Attributes:
    exit_code: exit code of the process (README, "Exit codes").
  """

  exit_code = 1


class ConfigError(KdError):
  """The config, a flag or a file that it names is wrong; do not retry."""

  exit_code = 2

  def __init__(
    self,
    path: str,
    found: str,
    legal: str = '',
    nearest: str = '',
    details: str = '',
  ):
    """Builds the message from its parts.

    Args:
      path: path of the field (`losses.kl.name`), flag, or file and line.
      found: the value that was found, and why it is wrong.
      legal: the legal values.
      nearest: the closest legal value, if one is close.
      details: lines to print below the message.
    """
    self.path = path
    self._rest = found
    if legal:
      self._rest += f'; legal: {legal}'
    if nearest:
      self._rest += f'; did you mean {nearest!r}?'
    if details:
      self._rest += f'\n{details}'
    super().__init__(f'{path}: {self._rest}')

  def __reduce__(self):
    return ConfigError, (self.path, self._rest)

  def within(self, path: str) -> 'ConfigError':
    """Returns the same error with `path` put in front of its own path."""
    joined = f'{path}.{self.path}' if path else self.path
    return ConfigError(joined, self._rest)

  def at(self, path: str) -> 'ConfigError':
    """Returns the same error with another path."""
    return ConfigError(path, self._rest)


class NonFiniteError(KdError):
  """A loss, a gradient or a model's logits are NaN or infinite.

  Attributes:
    teachers: names of the teachers with non-finite logits, if any.
  """

  exit_code = 3

  def __init__(self, message: str, teachers: Sequence[str] = ()):
    super().__init__(message)
    self.teachers = tuple(teachers)


class PreemptedError(KdError):
  """The machine is being preempted; the state is saved, restart the run."""

  exit_code = 42


FULL = (errno.ENOSPC, errno.EDQUOT)  # Temporary: the disk is full.
# Errors caused by a disk rather than by the program.
_OF_DISKS = (
  *FULL,
  *(errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM),
  *(errno.EISDIR, errno.ENOTDIR),  # A folder where a file belongs.
)


@contextlib.contextmanager
def refused_unless_writable(
  path: str, folder: str, legal: str
) -> Iterator[None]:
  """Turns OSErrors of the block into ConfigErrors, unless the disk is full.

  Args:
    path: path of the field or flag that names the folder.
    folder: the folder being written.
    legal: legal values of the field.

  Raises:
    ConfigError: writing failed, and not because the disk is full.
  """
  try:
    yield
  except OSError as e:
    if e.errno in FULL:
      raise
    raise ConfigError(
      path, f'{folder!r} cannot be written: {e.strerror}', legal=legal
    ) from e


def for_user(error: KdError | OSError, workdir: str) -> KdError:
  """Returns the error that main prints.

  Args:
    error: the error that ended the run.
    workdir: path to report if the error names no file.

  Raises:
    OSError: the error itself, with its traceback, if no disk caused it.
  """
  if isinstance(error, KdError):
    return error
  if error.errno not in _OF_DISKS:
    raise error
  return KdError(
    f'{error.filename or workdir}: {error.strerror}; checkpoints are kept: '
    'once that is fixed, the same command resumes'
  )


def first_of(names: Sequence[str]) -> str:
  """Formats the first names of a list and the number of remaining ones."""
  rest = f', and {len(names) - NAMED} more' if len(names) > NAMED else ''
  return ', '.join(names[:NAMED]) + rest


def nearest(name: str, legal: Iterable[str]) -> str:
  """Returns the legal name closest to `name`, or '' if none is close."""
  matches = difflib.get_close_matches(name, list(legal), n=1, cutoff=0.5)
  return matches[0] if matches else ''


def unknown(
  path: str, kind: str, name: str, legal: Sequence[str], renamed: str = ''
) -> ConfigError:
  """Returns an error for a name that is not among the legal ones.

  Args:
    path: path of the field that contains the name.
    kind: what the name stands for, e.g. 'loss' or 'field'.
    name: the unknown name.
    legal: the legal names.
    renamed: the legal name that replaced it, if any.

  Returns:
    The error, to be raised by the caller.
  """
  return ConfigError(
    path,
    f'unknown {kind} {name[:_LONGEST]!r}',
    legal=', '.join(sorted(legal)) or 'none',
    nearest=renamed or nearest(name, legal),
  )
