"""Serves a web page about runs on this machine."""

import contextlib

import ml_collections

from kd.board import database
from kd.board import pages
from kd.board import server
from kd.config import base
from kd.run import session
from kd.train import preemption

ARGUMENTS = '[FOLDER...]'
CONFIG_OPTIONAL = True


def main(
  config: ml_collections.ConfigDict, workdir: str | None, arguments: list[str]
) -> None:
  """Serves the board until Ctrl-C; see docs/board.md.

  Raises:
    ConfigError: a folder cannot be read, the port is in use, or a field of
      `board` is wrong.
  """
  fields = base.checked(config).board
  roots = database.default_roots(arguments, workdir)
  db = database.Database(roots)
  db.refresh()
  query = database.Query(
    fields.where, fields.metric, fields.direction, fields.sort
  )
  total = db.select(query).total
  models = [url.rstrip('/') for url in fields.models]
  shown = pages.Pages(db, query, models)
  with server.bind(shown, models, fields.port) as listener:
    port = listener.server_address[1]
    runs = f'{total} run{"" if total == 1 else "s"}'
    session.say(f'{runs} below {", ".join(roots)}')
    session.say(f'board: http://{server.HOST}:{port}/ (Ctrl-C ends it)')
    with (
      preemption.STOP_REQUESTS.interrupts_left_to(_interrupt),
      contextlib.suppress(KeyboardInterrupt),
    ):
      listener.serve_forever()


def _interrupt(number, frame):
  del number, frame
  raise KeyboardInterrupt
