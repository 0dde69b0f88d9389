"""Standard input and output of a chat: a terminal, files or pipes."""

import contextlib
import importlib
import os
import sys

from kd.core import errors
from kd.core import text_files

_PROMPT, _CONTINUED = '>>> ', '... '
# Generated text must not control the terminal, such as move the cursor or set
# the title.
_SHOWN = str.maketrans(
  {
    chr(code): '\N{REPLACEMENT CHARACTER}'
    for code in (*range(32), *range(127, 160))
    if chr(code) not in '\n\t'
  }
)


class Console:
  """Reads messages and writes answers.

  A terminal shows everything. Otherwise only the answers, unchanged and in
  UTF-8, are written to standard output, and notes to standard error.

  Attributes:
    interactive: whether standard input and output are a terminal.
  """

  def __init__(self):
    self.interactive = bool(
      sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()
    )
    self._shown = sys.stdout.isatty()
    self._lines, self._readline = 0, None
    self._parts: list[str] = []  # Lines of an incomplete message.
    if self.interactive:
      sys.stdout.reconfigure(errors='replace')
      # Enables line editing in `input`; not in every build of Python.
      with contextlib.suppress(ImportError):
        self._readline = importlib.import_module('readline')
    else:
      sys.stdout.reconfigure(encoding='utf-8')

  @property
  def where(self) -> str:
    """Returns the location of the last message, for errors."""
    return 'message' if self.interactive else f'stdin:{self._lines}'

  def read(self) -> str | None:
    """Returns the next message; None at the end.

    A line that ends in a backslash continues in the next one. Blank messages
    are skipped.

    Raises:
      ConfigError: a line is not UTF-8.
      KeyboardInterrupt: raised by a handler of Ctrl-C.
    """
    parts = self._parts = []
    while (line := self._line(_CONTINUED if parts else _PROMPT)) is not None:
      continues = line.endswith('\\')
      parts.append(line[:-1] if continues else line)
      if continues:
        continue
      if any(part.strip() for part in parts):
        break
      parts.clear()
    return '\n'.join(parts) if any(p.strip() for p in parts) else None

  def typed(self) -> bool:
    """Returns whether a part of a message has been typed."""
    line = self._readline.get_line_buffer() if self._readline else ''
    return bool(self._parts or line)

  def _line(self, prompt: str) -> str | None:
    if self.interactive:
      try:
        return input(prompt)
      except EOFError:
        self.write('\n')
        return None
      except UnicodeDecodeError as e:
        raise text_files.not_utf8(self.where, e) from e
    data = sys.stdin.buffer.readline() if sys.stdin else b''
    if not data:
      return None
    self._lines += 1
    try:
      return data.decode('utf-8').rstrip('\r\n')
    except UnicodeDecodeError as e:
      raise text_files.not_utf8(self.where, e) from e

  def write(self, text: str) -> None:
    """Writes a part of an answer and flushes it."""
    if self._shown:
      text = text.translate(_SHOWN)
    sys.stdout.write(text)
    sys.stdout.flush()

  def say(self, line: str) -> None:
    """Writes a note."""
    stream = sys.stdout if self.interactive else sys.stderr
    print(line, file=stream, flush=True)

  def refuse(self, error: errors.ConfigError) -> None:
    """Shows an error in a message; without a terminal, ends the chat.

    Raises:
      ConfigError: the error with its line, if there is no terminal.
    """
    if not self.interactive:
      raise error.at(self.where) from error
    self.say(str(error.at('error')))

  def close(self) -> None:
    """Discards further output, because the reader has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
