"""Lists runs with their status, best metric and config differences."""

import ml_collections

from kd.board import database
from kd.board import listing
from kd.config import base
from kd.core import errors
from kd.run import session

ARGUMENTS = '[FOLDER...]'
CONFIG_OPTIONAL = True


def main(
  config: ml_collections.ConfigDict, workdir: str | None, arguments: list[str]
) -> None:
  """Prints the runs below folders; see docs/board.md.

  Raises:
    ConfigError: a folder cannot be read, or a field of `board` is wrong.
  """
  fields = base.checked(config).board
  db = database.Database(database.default_roots(arguments, workdir))
  db.refresh()
  selection = db.select(
    database.Query(fields.where, fields.metric, fields.direction, fields.sort)
  )
  _check_columns(fields.columns, selection)
  if fields.output == 'json':
    session.say(listing.as_json(selection, db))
    return
  if fields.output == 'differences':
    lines = listing.difference_lines(selection, db)
  else:
    lines = listing.table(selection, db, fields.columns)
  for line in lines:
    session.say(line)


def _check_columns(columns, selection):
  known = {name for row in selection.rows for name in row}
  for name in columns:
    if known and name not in known:
      raise errors.unknown(
        'board.columns',
        'column',
        name,
        list(database.COLUMNS),
        errors.nearest(name, known),
      )
