"""Starts the program: kd MODE, or python -m kd --mode=MODE.

On Linux the process first restarts itself with large pages for its arrays,
before the imports, which take seconds.
"""

import sys

from kd import command
from kd.core import errors
from kd.core import host_memory


def start() -> None:
  """Runs the command line of this process."""
  text = command.answer(sys.argv[1:])
  if text is not None:
    print(text)
    return
  try:
    sys.argv[1:] = command.with_mode(sys.argv[1:])
  except errors.ConfigError as e:
    print(f'kd: error: {e}', file=sys.stderr)
    sys.exit(e.exit_code)
  host_memory.use_large_pages()

  from kd import main

  main.run()


if __name__ == '__main__':
  start()
