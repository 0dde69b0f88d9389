"""Identifies results: by digests, and by the folder of an identity."""

from collections.abc import Mapping
import hashlib
import json
import os
from typing import Any

from kd.core import atomic_files
from kd.core import config as config_lib
from kd.core import errors
from kd.core import json_files


def digest(value: Any) -> str:
  """Returns 16 hex digits of the SHA-256 of a value's JSON, keys sorted."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_digest(value: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a JSON object with the digest of its other fields."""
  return {**value, 'digest': content_digest(value)}


def content_digest(value: Mapping[str, Any]) -> str:
  """Returns the digest of a JSON object's fields other than `digest`."""
  return digest({key: x for key, x in value.items() if key != 'digest'})


def file_digest(path: str) -> str:
  """Returns the SHA-256 of a file's bytes, as 64 hex digits."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def bytes_digest(*parts: bytes) -> str:
  """Returns 16 hex digits of the SHA-256 of the concatenated parts."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part)
  return digest.hexdigest()[:16]


def claim(
  folder: str,
  file: str,
  identity: Mapping[str, Any],
  field: str,
  content: str,
  legal: str,
) -> None:
  """Creates a folder for an identity, or checks that it has this identity.

  Args:
    folder: the folder; created if it is missing.
    file: name of the file in it that contains the identity.
    identity: the values that determine the folder's content, as JSON.
    field: the config field that names the folder.
    content: the content of a folder with another identity, for the message.
    legal: legal values of the field, for the message.

  Raises:
    ConfigError: the folder cannot be written, or the identities differ; lists
      all differences.
  """
  path = os.path.join(folder, file)
  with errors.refused_unless_writable(
    field, folder, 'a folder that this user can write'
  ):
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(path):
      atomic_files.write_json(path, identity)
      return
  recorded = json_files.read(path, field)
  what = f'{folder!r} contains {content}'
  config_lib.refuse_differences(recorded, identity, field, what, legal)
