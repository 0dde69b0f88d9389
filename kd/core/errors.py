"""The errors that end a run, each with its documented exit code."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import difflib
import errno

_LONGEST = 120  # Characters of a name that a message shows.
NAMED = 3  # Of many names, those that a message shows.


class KdError(Exception):
  """An error whose message is written for the user; main prints no traceback.

  Attributes:
    exit_code: what the process exits with (README, "Exit codes").
  """

  exit_code = 1


class ConfigError(KdError):
  """The config, a flag or a file that it names is wrong: never retry."""

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
      path: the field's path (`losses.kl.name`), flag, or file with its line.
      found: what stands there and why it is wrong.
      legal: what may stand there.
      nearest: the closest legal value, if one is close.
      details: lines that are printed below the message.
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
    """Returns the same error, its path being relative to `path`."""
    joined = f'{path}.{self.path}' if path else self.path
    return ConfigError(joined, self._rest)

  def at(self, path: str) -> 'ConfigError':
    """Returns the same error with another path."""
    return ConfigError(path, self._rest)


class NonFiniteError(KdError):
  """A loss, a gradient or a model's logits are NaN or infinite.

  Attributes:
    teachers: the names of the teachers that are not finite, if any.
  """

  exit_code = 3

  def __init__(self, message: str, teachers: Sequence[str] = ()):
    super().__init__(message)
    self.teachers = tuple(teachers)


class PreemptedError(KdError):
  """The machine is being taken away; state is saved, start the run again."""

  exit_code = 42


FULL = (errno.ENOSPC, errno.EDQUOT)  # Of a disk: may have room again.
# What a disk, not a program, is to blame for.
_OF_DISKS = (
  *FULL,
  *(errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM),
  *(errno.EISDIR, errno.ENOTDIR),  # A folder in the place of a file.
)


@contextlib.contextmanager
def refused_unless_writable(
  path: str, folder: str, legal: str
) -> Iterator[None]:
  """Within it, what can't be written is the config's fault; a full disk not.

  Args:
    path: of the field or flag that names the folder.
    folder: what is written.
    legal: what would be.

  Raises:
    ConfigError: for an OSError that does not say that a disk is full.
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
  """Returns the error as main prints it.

  Args:
    error: what ended the run.
    workdir: where it most likely wrote, if the error does not say.

  Raises:
    OSError: the error itself, if it is not a disk's: its traceback is wanted.
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
  """Returns the first names of a list, and how many more there are."""
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
    path: the path of the field that holds the name.
    kind: the kind of thing that the name names, e.g. 'loss' or 'field'.
    name: the name found.
    legal: the names that exist.
    renamed: the legal name that replaced it, if one did.

  Returns:
    The error, to be raised by the caller.
  """
  return ConfigError(
    path,
    f'unknown {kind} {name[:_LONGEST]!r}',
    legal=', '.join(sorted(legal)) or 'none',
    nearest=renamed or nearest(name, legal),
  )
