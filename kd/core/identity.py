"""Digests that identify what a result was computed from."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
  """Returns 16 hex digits of the SHA-256 of a value's JSON, keys sorted."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: str) -> str:
  """Returns the SHA-256 of a file's bytes, as 64 hex digits."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()
