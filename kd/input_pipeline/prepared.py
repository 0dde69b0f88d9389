"""Prepared rows on disk, opened after checking that they are complete."""

import dataclasses
import datetime
import hashlib
import json
import os
from typing import Any

from array_record.python import array_record_module

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.input_pipeline import file_digests
from kd.input_pipeline import retry

MANIFEST = 'manifest.json'
_LEGAL = 'the folder as it was written; delete it to prepare its rows again'
_NAMED = 3  # examples that are left out, in a line for the user


@dataclasses.dataclass(frozen=True)
class Prepared:
  """One task's rows on disk.

  Attributes:
    task: the seqio task's name.
    folder: where the files are.
    rate: its rate in the mixture, before normalizing; 1 for a task alone.
    first_row_id: the row_id of its first row; parts of a mixture follow on.
    length: positions of a row, L.
    pad_id: fills unused positions.
    counts: examples, rows, tokens (targets), target_weight (their sum of
      weights), rationale_weight (the rationales' share of that sum), fill (used
      share of positions), too_long (ids of the examples that no row can hold,
      which were left out), skipped (the wrong examples' count and the first
      errors, {} if there are none).
    manifest: everything that went in, as in the folder's manifest.json.
    retry_policy: with the files when they are read.
    reused: whether the rows were prepared by an earlier call.
  """

  task: str
  folder: str
  rate: float
  first_row_id: int
  length: int
  pad_id: int
  counts: dict[str, Any]
  manifest: dict[str, Any]
  retry_policy: retry.RetryPolicy
  reused: bool

  @property
  def rows_file(self) -> str:
    return os.path.join(self.folder, f'{self.task}.array_record')

  @property
  def examples_file(self) -> str:
    return os.path.join(self.folder, f'{self.task}.examples.jsonl')

  def examples(self) -> list[dict[str, Any]]:
    """Returns the examples in file order.

    Each has id, inputs, targets, rationale (the beginning of targets that is
    the rationale, or '') and in_rows (bool).
    """
    with open(self.examples_file, encoding='utf-8') as f:
      return [json.loads(line) for line in f]

  def describe(self) -> str:
    """Returns a line for the user: counts, what is left out, reuse."""
    c = self.counts
    line = (
      f'{self.task}: {c["rows"]:,} rows, {c["fill"]:.0%} full, '
      f'{c["examples"]:,} examples'
    )
    if c['too_long']:
      ids = c['too_long'][:_NAMED]
      ids += ['...'] if len(c['too_long']) > _NAMED else []
      line += (
        f' ({len(c["too_long"]):,} too long and left out: {", ".join(ids)})'
      )
    if c['skipped']:
      line += f', {c["skipped"]["count"]:,} wrong ones skipped'
    if self.reused:
      when = datetime.datetime.fromisoformat(self.manifest['prepared'])
      line += f', rows prepared on {when:%Y-%m-%d %H:%M} UTC, reused'
    return line


def write_manifest(folder: str, manifest: dict[str, Any]) -> None:
  """Writes the manifest of a folder, with its own digest."""
  text = json.dumps(identity.with_digest(manifest), indent=2)
  atomic_files.write_text(os.path.join(folder, MANIFEST), text)


def read_manifest(folder: str) -> dict[str, Any]:
  """Returns the manifest of a prepared folder.

  Raises:
    ConfigError: it is missing or damaged.
  """
  path = os.path.join(folder, MANIFEST)
  try:
    data = _read(path)
  except OSError as e:
    raise errors.ConfigError(
      path, f'cannot be read: {e.strerror}', legal=_LEGAL
    ) from e
  manifest = json_files.parse(data, path, _LEGAL, is_file=True)
  if isinstance(manifest, dict) and (
    manifest.get('digest') == identity.content_digest(manifest)
  ):
    return manifest
  raise errors.ConfigError(path, 'was changed', legal=_LEGAL)


def open_folder(
  folder: str,
  request: dict[str, Any],
  pad_id: int,
  retry_policy: retry.RetryPolicy,
  reused: bool,
  digests: file_digests.Digests,
) -> list[Prepared]:
  """Reads a prepared folder after checking that it is complete.

  Args:
    folder: a folder that `prepare.prepare` wrote.
    request: the request that the manifest must record.
    pad_id: fills unused positions.
    retry_policy: with files that cannot be read.
    reused: whether an earlier call wrote it.
    digests: gives the files' digests.

  Returns:
    Its parts in the manifest's order.

  Raises:
    ConfigError: the folder is damaged or holds something else.
  """
  manifest = read_manifest(folder)
  for key, value in request.items():
    there = manifest['request'].get(key)
    if there != value:
      raise errors.ConfigError(
        os.path.join(folder, MANIFEST), f'{key} is {there!r}', legal=_LEGAL
      )
  parts, first = [], 0
  for part in manifest['parts']:
    counts = {k: v for k, v in part.items() if k not in ('task', 'rate')}
    opened = Prepared(
      part['task'],
      folder,
      part['rate'],
      first,
      request['length'],
      pad_id,
      counts,
      manifest,
      retry_policy,
      reused,
    )
    _check_part(opened, digests)
    parts.append(opened)
    first += part['rows']
  return parts


def _check_part(part: Prepared, digests: file_digests.Digests) -> None:
  try:
    content = digests.of(part.rows_file)
    reader = array_record_module.ArrayRecordReader(part.rows_file)
    rows = reader.num_records()
    reader.close()
    found = hashlib.sha256(_read(part.examples_file)).hexdigest()
  except Exception as e:  # array_record raises kinds of its own.
    raise errors.ConfigError(
      part.folder, f'cannot be read: {e}', legal=_LEGAL
    ) from e
  if rows != part.counts['rows']:
    raise errors.ConfigError(
      part.rows_file,
      f'{rows} rows, the manifest says {part.counts["rows"]}',
      legal=_LEGAL,
    )
  if not content or content[1] != part.counts['rows_file_sha256']:
    raise errors.ConfigError(part.rows_file, 'was changed', legal=_LEGAL)
  if found != part.counts['examples_sha256']:
    raise errors.ConfigError(part.examples_file, 'was changed', legal=_LEGAL)


def _read(path: str) -> bytes:
  with open(path, 'rb') as f:
    return f.read()
