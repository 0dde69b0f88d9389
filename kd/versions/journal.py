"""Reads and writes the journal of a registry, one line per change.

Each line contains the digest of the previous one. The whole file is replaced
atomically (in a bucket, as one object), so that a killed command makes its
change or none. Readers need no lock; writers must hold it.
"""

from collections.abc import Mapping
import getpass
import os
import socket
from typing import Any

from kd.core import errors
from kd.core import identity
from kd.core import json_lines
from kd.core import run_info
from kd.data_files import json_rows

FILE = 'journal.jsonl'
_LEGAL = 'a change of a registry, as kd registry wrote it'


def read(folder: str) -> list[dict[str, Any]]:
  """Returns all changes, oldest first; [] if there is no registry.

  Raises:
    ConfigError: a line was changed, removed or added by another program.
  """
  path = os.path.join(folder, FILE)
  if not os.path.exists(path):
    return []
  records, previous = [], ''
  for where, record in json_rows.read(path, legal=_LEGAL):
    number = len(records) + 1
    if record.get('number') != number or record.get('previous') != previous:
      raise errors.ConfigError(
        where, 'does not continue the line before it', legal=_LEGAL
      )
    previous = identity.content_digest(record)
    if record.get('digest') != previous:
      raise errors.ConfigError(
        where, 'was changed after it was written', legal=_LEGAL
      )
    records.append(record)
  return records


def append(folder: str, change: str, fields: Mapping[str, Any]) -> None:
  """Appends a change; the caller must hold the lock of the folder.

  Args:
    folder: folder of the registry.
    change: name of the change, such as 'promote'.
    fields: further fields of the change, as JSON.
  """
  records = read(folder)
  record = identity.with_digest(
    {
      'number': len(records) + 1,
      'date': run_info.now(),
      'by': f'{_user()}@{socket.gethostname()}',
      'change': change,
      **fields,
      'previous': records[-1]['digest'] if records else '',
    }
  )
  json_lines.write(os.path.join(folder, FILE), [*records, record])


def _user() -> str:
  try:
    return getpass.getuser()
  except (KeyError, OSError):  # Users in containers may have no name.
    return str(os.getuid())
