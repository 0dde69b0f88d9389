"""Opens prepared rows on disk after checking that they are complete."""

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
_NAMED = 3  # dropped examples that are named in a message


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A task's rows on disk.

  Attributes:
    task: name of the seqio task.
    folder: folder of the files.
    rate: rate of the task in the mixture, before normalization; 1 for a single
      task.
    first_row_id: row_id of the task's first row; ids are consecutive.
    length: L, number of positions per row.
    pad_id: id of unused positions.
    counts: the counts of shard_files.total, and `skipped` (the number of
      invalid examples and the first errors, {} if there are none).
    manifest: contents of the folder's manifest.json.
    retry_policy: retries of reads that fail.
    reused: whether the rows were prepared by an earlier call.
    form: format of the model's images; None if it takes none.
    has_prefixes: whether records contain the examples' prefixes for a teacher.
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
    """Returns the files of the shards, in order.

    Args:
      kind: shard_files.ROWS or EXAMPLES.
    """
    return _files(self.folder, self.task, len(self.counts['shards']), kind)

  def examples(self) -> Iterator[dict[str, Any]]:
    """Returns the examples in the order of the data.

    They have the fields of examples.stream, and in_rows (bool).
    """
    return examples_of(self.folder, self.task, len(self.counts['shards']))

  def describe(self) -> str:
    """Returns a line with counts, dropped examples and reuse."""
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
      line += f', {c["skipped"]["count"]:,} invalid examples skipped'
    if self.reused:
      when = datetime.datetime.fromisoformat(self.manifest['prepared'])
      line += f', rows prepared on {when:%Y-%m-%d %H:%M} UTC, reused'
    return line


def examples_of(folder: str, task: str, count: int) -> Iterator[dict[str, Any]]:
  """Yields a task's examples, see `Prepared.examples`.

  Args:
    folder: a prepared folder.
    task: name of the task.
    count: number of shards.
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
  """Writes the manifest of a folder, including its digest."""
  text = json.dumps(identity.with_digest(manifest), indent=2)
  atomic_files.write_text(os.path.join(folder, MANIFEST), text)


def read_manifest(folder: str) -> dict[str, Any]:
  """Returns the manifest of a prepared folder.

  Raises:
    ConfigError: the manifest is missing or damaged.
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
  """Returns the newest folder whose data files have not changed, or None."""
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
  """Returns whether a folder contains a manifest."""
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
    request: request that the manifest must contain.
    pad_id: id of unused positions.
    retry_policy: retries of reads that fail.
    reused: whether an earlier call wrote the folder.
    digests: computes digests of files.
    form: format of the model's images; None if it takes none.

  Returns:
    The rows of each task, in the manifest's order.

  Raises:
    ConfigError: the folder is damaged or belongs to another request.
  """
  manifest = read_manifest(folder)
  for key, value in request.items():
    there = manifest['request'].get(key)
    if there != value:
      raise errors.ConfigError(
        os.path.join(folder, MANIFEST), f'{key} is {there!r}', legal=_LEGAL
      )
  tasks, first = [], 0
  for record in manifest['parts']:  # Named as in earlier versions.
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
    with digests.delayed_writes():
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
        content = digests.get(path)
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
