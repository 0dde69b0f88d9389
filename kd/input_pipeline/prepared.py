"""Prepared rows on disk: what is there, and whether it is whole."""

import dataclasses
import hashlib
import json
import os
from typing import Any

from array_record.python import array_record_module

from kd.core import errors
from kd.input_pipeline import reading

MANIFEST = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Prepared:
  """One task's rows on disk.

  Attributes:
    task: the seqio task's name.
    folder: where the files are.
    rate: its share in the mixture, before normalising; 1 for a task alone.
    first_row_id: the row_id of its first row; parts of a mixture follow on.
    length: positions of a row, L.
    pad_id: fills unused positions.
    counts: examples, rows, tokens (targets), target_weight (their sum of
      weights), rationale_weight (the rationales' share of that sum), fill (used
      share of positions), too_long (ids of the examples that no row can hold,
      which were left out).
    manifest: everything that went in, as in the folder's manifest.json.
    patience: of whoever reads the rows.
  """

  task: str
  folder: str
  rate: float
  first_row_id: int
  length: int
  pad_id: int
  counts: dict[str, Any]
  manifest: dict[str, Any]
  patience: reading.Patience

  @property
  def rows_file(self) -> str:
    return os.path.join(self.folder, f'{self.task}.array_record')

  @property
  def examples_file(self) -> str:
    return os.path.join(self.folder, f'{self.task}.examples.jsonl')

  def examples(self) -> list[dict[str, Any]]:
    """The examples in file order.

    Returns:
      id, inputs, targets, rationale (the beginning of targets that is it, or
      '') and in_rows (bool) of each.
    """
    with open(self.examples_file, encoding='utf-8') as f:
      return [json.loads(line) for line in f]


def open_folder(
  folder: str,
  request: dict[str, Any],
  pad_id: int,
  patience: reading.Patience,
) -> list[Prepared]:
  """Reads a prepared folder after checking that it is whole.

  Args:
    folder: what `prepare.prepare` wrote.
    request: what was asked for, as the manifest must have it.
    pad_id: fills unused positions.
    patience: with files that cannot be read.

  Returns:
    Its parts in the manifest's order.

  Raises:
    ConfigError: the folder is damaged or holds something else.
  """
  legal = 'the folder as it was written; delete it to prepare it again'
  manifest_path = os.path.join(folder, MANIFEST)
  try:
    with open(manifest_path, encoding='utf-8') as f:
      manifest = json.load(f)
    found = manifest['parts']
    for key, value in request.items():
      if manifest['request'][key] != value:
        raise ValueError(f'{key} is {manifest["request"][key]!r}')
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise errors.ConfigError(
      manifest_path, f'{type(e).__name__}: {e}', legal=legal
    ) from e
  parts, first = [], 0
  for part in found:
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
      patience,
    )
    _check_part(opened, legal)
    parts.append(opened)
    first += part['rows']
  return parts


def _check_part(part: Prepared, legal: str) -> None:
  try:
    reader = array_record_module.ArrayRecordReader(part.rows_file)
    rows = reader.num_records()
    reader.close()
    with open(part.examples_file, 'rb') as f:
      digest = hashlib.sha256(f.read()).hexdigest()
  except Exception as e:  # array_record raises kinds of its own.
    raise errors.ConfigError(
      part.folder, f'cannot be read: {e}', legal=legal
    ) from e
  if rows != part.counts['rows']:
    raise errors.ConfigError(
      part.rows_file,
      f'{rows} rows, the manifest says {part.counts["rows"]}',
      legal=legal,
    )
  if digest != part.counts['examples_sha256']:
    raise errors.ConfigError(part.examples_file, 'was changed', legal=legal)
