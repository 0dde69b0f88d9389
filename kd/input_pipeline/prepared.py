"""Prepared rows on disk, opened after checking that they are complete."""

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import json
import os
from typing import Any

from kd.core import atomic_files
from kd.core import buckets
from kd.core import errors
from kd.core import identity
from kd.core import json_files
from kd.images import form as form_lib
from kd.input_pipeline import file_digests
from kd.input_pipeline import retry
from kd.input_pipeline import shard_files
from kd.input_pipeline import shards
from kd.input_pipeline import task_code
from kd.input_pipeline import task_files

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
    first_row_id: the row_id of its first row; those of the next task follow.
    length: positions of a row, L.
    pad_id: fills unused positions.
    counts: as shard_files.total returns them, and skipped (the wrong examples'
      count and the first errors, {} if there are none).
    manifest: everything that went in, as in the folder's manifest.json.
    retry_policy: with the files when they are read.
    reused: whether the rows were prepared by an earlier call.
    form: how the model takes images; None if it takes none.
    has_prefixes: whether each example has a text that a teacher reads first.
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
  form: form_lib.Form | None = None
  has_prefixes: bool = False

  @property
  def images(self) -> list[int]:
    """Returns the number of images of each row; [] without a form."""
    shards_ = self.counts['shards']
    return (
      [x for shard in shards_ for x in shard['images']] if self.form else []
    )

  def files(self, kind: str) -> list[str]:
    """Returns the files of its shards, in order.

    Args:
      kind: shard_files.ROWS or EXAMPLES.
    """
    return _files(self.folder, self.task, len(self.counts['shards']), kind)

  def examples(self) -> Iterator[dict[str, Any]]:
    """Returns the examples in the order of the data.

    Each is as examples.stream yields it, and has in_rows (bool).
    """
    return examples_of(self.folder, self.task, len(self.counts['shards']))

  def describe(self) -> str:
    """Returns a line for the user: counts, what is left out, reuse."""
    c = self.counts
    line = (
      f'{self.task}: {c["rows"]:,} rows, {c["fill"]:.0%} full, '
      f'{c["examples"]:,} examples'
    )
    if any(self.images):
      line += f', {sum(self.images):,} images'
    if c['too_long']:
      ids = c['too_long_ids'][:_NAMED]
      ids += ['...'] if c['too_long'] > _NAMED else []
      line += f' ({c["too_long"]:,} too long and left out: {", ".join(ids)})'
    if c['skipped']:
      line += f', {c["skipped"]["count"]:,} wrong ones skipped'
    if self.reused:
      when = datetime.datetime.fromisoformat(self.manifest['prepared'])
      line += f', rows prepared on {when:%Y-%m-%d %H:%M} UTC, reused'
    return line


def examples_of(folder: str, task: str, count: int) -> Iterator[dict[str, Any]]:
  """Yields a task's examples, as `Prepared.examples` does.

  Args:
    folder: a prepared folder.
    task: its name.
    count: the number of its shards.
  """
  for path in _files(folder, task, count, shard_files.EXAMPLES):
    with open(path, encoding='utf-8') as f:
      yield from map(json.loads, f)


def _files(folder, task, count, kind):
  return [
    os.path.join(folder, shards.name(task, number) + kind)
    for number in range(count)
  ]


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


def reusable(
  stem: str, code: task_code.TaskCode, digests: file_digests.Digests
) -> str | None:
  """Returns the newest folder whose data files are as they were, if any."""
  parent, prefix = os.path.split(stem)
  for name in buckets.names(parent):
    if name.startswith(f'{prefix}-') and name.endswith(f'/{MANIFEST}'):
      buckets.fetch(os.path.join(parent, name), check=False)
  found = []
  with contextlib.suppress(FileNotFoundError):
    for name in os.listdir(parent):
      if name.startswith(f'{prefix}-'):
        folder = os.path.join(parent, name)
        if buckets.is_copy(folder) and not is_complete(folder):
          continue
        manifest = read_manifest(folder)
        found.append((manifest['prepared'], folder, manifest['sources']))
  for _, folder, files in sorted(found, key=lambda f: f[:2], reverse=True):
    if task_files.unchanged(files, code, digests):
      buckets.fetch(folder, check=False)
      return folder
  return None


def is_complete(folder: str) -> bool:
  """Returns whether a folder has a manifest."""
  path = os.path.join(folder, MANIFEST)
  buckets.fetch(path, check=False)
  return os.path.exists(path)


def open_folder(
  folder: str,
  request: dict[str, Any],
  pad_id: int,
  retry_policy: retry.RetryPolicy,
  reused: bool,
  digests: file_digests.Digests,
  form: form_lib.Form | None = None,
) -> list[Prepared]:
  """Reads a prepared folder after checking that it is complete.

  Args:
    folder: a folder that `prepare.prepare` wrote.
    request: the request that the manifest must record.
    pad_id: fills unused positions.
    retry_policy: with files that cannot be read.
    reused: whether an earlier call wrote it.
    digests: gives the files' digests.
    form: how the model takes images; None if it takes none.

  Returns:
    The rows of each task, in the manifest's order.

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
  tasks, first = [], 0
  for record in manifest['parts']:  # The name that earlier versions wrote.
    counts = {k: v for k, v in record.items() if k not in ('task', 'rate')}
    opened = Prepared(
      record['task'],
      folder,
      record['rate'],
      first,
      request['length'],
      pad_id,
      counts,
      manifest,
      retry_policy,
      reused,
      form,
      'teacher_prefix' in request,
    )
    with digests.kept_once():
      _check_files(opened, digests)
    tasks.append(opened)
    first += record['rows']
  return tasks


def _check_files(task_rows: Prepared, digests: file_digests.Digests) -> None:
  for kind, field in (
    (shard_files.ROWS, 'rows_file_sha256'),
    (shard_files.EXAMPLES, 'examples_sha256'),
  ):
    recorded = [shard[field] for shard in task_rows.counts['shards']]
    for path, digest in zip(task_rows.files(kind), recorded, strict=True):
      try:
        content = digests.of(path)
      except OSError as e:
        raise errors.ConfigError(
          path, f'cannot be read: {e}', legal=_LEGAL
        ) from e
      if not content:
        raise errors.ConfigError(path, 'cannot be read', legal=_LEGAL)
      if content[1] != digest:
        raise errors.ConfigError(path, 'was changed', legal=_LEGAL)


def _read(path: str) -> bytes:
  with open(path, 'rb') as f:
    return f.read()
