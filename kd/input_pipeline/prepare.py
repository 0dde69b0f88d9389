"""Prepares a task or mixture once: tokenized, packed, in ArrayRecord files."""

from collections.abc import Callable
import contextlib
import datetime
import os
import shutil
from typing import Any

from absl import logging

from kd.core import atomic_files
from kd.core import errors
from kd.core import identity
from kd.core import paths
from kd.input_pipeline import examples as examples_lib
from kd.input_pipeline import file_digests
from kd.input_pipeline import mixtures
from kd.input_pipeline import opened_files
from kd.input_pipeline import part_files
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import retry
from kd.input_pipeline import skipping
from kd.input_pipeline import task_code
from kd.input_pipeline import task_files
from kd.input_pipeline import temp_dirs
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

Prepared = prepared_lib.Prepared  # What `prepare` returns for a task.

FORMAT = 4  # Raise it when what is written changes its meaning.

_warned: set[str] = set()


def prepare(
  mixture: mixtures.Mixture,
  split: str,
  *,
  tokenizer: tokenizers.Tokenizer,
  template: str,
  length: int,
  pack: bool,
  seed: int,
  cache_dir: str,
  limit: int,
  retry_policy: retry.RetryPolicy,
  long: str = 'chunk',
  chunk_overlap: int = 0,
  on_error: str = skipping.REFUSE,
  refresh: bool = False,
  say: Callable[[str], None] = logging.info,
) -> list[prepared_lib.Prepared]:
  """Returns the rows of a task or mixture, preparing them if necessary.

  Rows under `cache_dir` are reused, without importing TensorFlow, if they were
  made from the same request, code and data files. Files are written to a folder
  of their own that is renamed when it is complete, so processes may prepare the
  same rows at the same time.

  Args:
    mixture: the tasks and files.
    split: their split.
    tokenizer: gives the ids.
    template: a name of templates.TEMPLATES.
    length: positions of a row, L.
    pack: whether rows hold several examples; these are shuffled by `seed`
      before, or they keep the file's order.
    seed: of that shuffle.
    cache_dir: the folder of all prepared rows.
    limit: number of examples of each task to use, from the first; -1 for all.
    retry_policy: with a source that cannot be read.
    long: what becomes of examples that are longer than a row, one of
      encoding.LONG.
    chunk_overlap: tokens that chunks of a document share, see encoding.Encoder.
    on_error: 'refuse' raises what is wrong with an example; 'skip' leaves it
      out and records it.
    refresh: prepares the rows even if there are some to reuse.
    say: prints lines of progress.

  Returns:
    The rows of each task, in the order of their names.

  Raises:
    ConfigError: an unknown name or split, data that is missing, wrong, empty or
      longer than every row, or a prepared folder that is damaged.
    ReadError: the disk or the network failed at every attempt.
  """
  templates.check_tokenizer(tokenizer, template)
  if length < 1:
    raise errors.ConfigError('data.length', str(length), legal='1 or more')
  if limit == 0 or limit < -1:
    raise errors.ConfigError(
      'data.examples', str(limit), legal='1 or more, or -1 for all'
    )
  code = task_code.of(mixture.module)
  request = {
    'format': FORMAT,
    **mixture.request,
    'split': split,
    'template': template,
    'length': length,
    'pack': pack,
    'seed': seed if pack else None,
    'limit': limit,
    'long': long,
    'chunk_overlap': chunk_overlap,
    'on_error': on_error,
    'tokenizer': tokenizer.digest,
    'pad_bos_eos': [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id],
    'code': code.digest,
  }
  cache_dir = paths.expand(cache_dir)
  digests = file_digests.Digests(cache_dir)
  name = f'{mixture.name}-{split}'
  stem = os.path.join(cache_dir, f'{name}-{identity.digest(request)}')
  folder = None if refresh else _reusable(stem, code, digests)
  reused = folder is not None
  if folder is None:
    say(f'preparing rows of {mixture.name} ({split}) in {cache_dir}')
    folder = _write(
      stem, mixture, request, code, digests, tokenizer, retry_policy, say
    )
  prepared = prepared_lib.open_folder(
    folder, request, tokenizer.pad_id, retry_policy, reused, digests
  )
  _warn_of_unknown_files(prepared, say)
  return prepared


def _reusable(
  stem: str, code: task_code.TaskCode, digests: file_digests.Digests
) -> str | None:
  """Returns the newest folder whose data files are as they were, if any."""
  parent, prefix = os.path.split(stem)
  found = []
  with contextlib.suppress(FileNotFoundError):
    for name in os.listdir(parent):
      if name.startswith(f'{prefix}-'):
        folder = os.path.join(parent, name)
        manifest = prepared_lib.read_manifest(folder)
        found.append((manifest['prepared'], folder, manifest['sources']))
  for _, folder, sources in sorted(found, key=lambda f: f[:2], reverse=True):
    if task_files.unchanged(sources, code, digests):
      return folder
  return None


def _warn_of_unknown_files(
  prepared: list[prepared_lib.Prepared], say: Callable[[str], None]
) -> None:
  """Says once for each task that changes of its data cannot be noticed."""
  for task_rows in prepared:
    known = task_rows.manifest['sources']['tasks'][task_rows.task]['known']
    if not known and task_rows.task not in _warned:
      _warned.add(task_rows.task)
      say(
        f'warning: cannot see which files task {task_rows.task!r} reads, so '
        f'its rows are reused when they change: declare {task_files.NAME} in '
        f'{task_rows.manifest["request"]["module"]}, or pass '
        '--config.data.refresh=True'
      )


def _write(
  stem: str,
  mixture: mixtures.Mixture,
  request: dict[str, Any],
  code: task_code.TaskCode,
  digests: file_digests.Digests,
  tokenizer: tokenizers.Tokenizer,
  retry_policy: retry.RetryPolicy,
  say: Callable[[str], None],
) -> str:
  """Writes a complete folder under a temporary name; returns its own name."""
  parent = os.path.dirname(stem)
  with errors.refused_unless_writable(
    'data.folder',
    parent,
    'a folder that this user can write, or one with these rows',
  ):
    os.makedirs(parent, exist_ok=True)
    temp_dirs.remove(parent)
    aside, held = temp_dirs.make(parent)
  try:
    manifest = _write_parts(
      aside, mixture, request, code, digests, tokenizer, retry_policy, say
    )
    key = identity.digest([manifest['parts'], manifest['sources']])
    folder = f'{stem}-{key}'
    prepared_lib.write_manifest(aside, manifest)
    atomic_files.sync(aside)
    try:
      os.rename(aside, folder)
    except OSError:
      if not os.path.isdir(folder):
        raise
      # The same rows, from another process or an earlier day, whose files may
      # have been damaged since. The manifest comes last: it makes them count.
      names = sorted(
        os.listdir(aside), key=lambda x: x == prepared_lib.MANIFEST
      )
      for name in names:
        os.replace(os.path.join(aside, name), os.path.join(folder, name))
    atomic_files.sync(parent)
    return folder
  finally:
    shutil.rmtree(aside, ignore_errors=True)
    os.close(held)


def _write_parts(
  folder: str,
  mixture: mixtures.Mixture,
  request: dict[str, Any],
  code: task_code.TaskCode,
  digests: file_digests.Digests,
  tokenizer: tokenizers.Tokenizer,
  retry_policy: retry.RetryPolicy,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """Writes the rows of every task; returns the manifest."""
  split = request['split']
  pairs = examples_lib.tasks(mixture, split)
  tasks = [task for task, _ in pairs]
  before = task_files.describe(tasks, split, code, digests, ())
  parts = []
  for task, rate in pairs:
    skipped = skipping.taker(request['on_error'])
    examples = retry_policy.read(
      f'task {task.name!r}, split {split!r}',
      lambda task=task, skipped=skipped: list(
        examples_lib.stream(
          task, split, mixture.module, request['limit'], say, skipped
        )
      ),
    )
    if skipped and skipped.count:
      say(f'{task.name}: {skipped.line()}')
    parts.append(
      {'task': task.name, 'rate': rate}
      | part_files.write(folder, task.name, examples, request, tokenizer, say)
      | {'skipped': skipped.record() if skipped else {}}
    )
  sources = task_files.describe(
    tasks, split, code, digests, opened_files.by(mixture.module)
  )
  for name, task in before['tasks'].items():
    # TFDS may have written the files of a task in the meantime.
    if task['files'] and task['files'] != sources['tasks'][name]['files']:
      raise retry.ReadError(
        f'the data files of task {name!r} changed while they were read: start '
        'the same command again'
      )
  now = datetime.datetime.now(datetime.UTC)
  return {
    'request': request,
    'prepared': now.isoformat(timespec='microseconds'),
    'sources': sources,
    'parts': parts,
  }
