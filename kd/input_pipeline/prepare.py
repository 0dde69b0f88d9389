"""Prepares a task or mixture: tokenizes, packs and writes ArrayRecord files."""

from collections.abc import Callable, Sequence
import os

from absl import logging

from kd.core import errors
from kd.core import identity
from kd.core import paths
from kd.images import form as form_lib
from kd.input_pipeline import beam_backend
from kd.input_pipeline import file_digests
from kd.input_pipeline import mixtures
from kd.input_pipeline import preparation
from kd.input_pipeline import prepared as prepared_lib
from kd.input_pipeline import reading
from kd.input_pipeline import retry
from kd.input_pipeline import skipping
from kd.input_pipeline import task_code
from kd.input_pipeline import task_files
from kd.input_pipeline import templates
from kd.input_pipeline import tokenizers

Prepared = prepared_lib.Prepared  # Result of `prepare` for each task.

FORMAT = 5  # Increment when the meaning of the files changes.

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
  form: form_lib.Form | None = None,
  prefix: str = '',
  backend: str = preparation.EMBEDDED,
  workers: int = 1,
  beam_args: Sequence[str] = (),
  on_large: Callable[[], None] = lambda: None,
  refresh: bool = False,
  say: Callable[[str], None] = logging.info,
) -> list[prepared_lib.Prepared]:
  """Returns the rows of a task or mixture, preparing them if necessary.

  Rows under `cache_dir` are reused, without importing TensorFlow, if they were
  prepared from the same request, code and data files. Otherwise the examples
  are divided into shards, which processes that share the folder prepare
  together. Shards that an interrupted call has completed are reused. The folder
  gets its final name when it is complete.

  Args:
    mixture: the tasks and files.
    split: split of the tasks and files.
    tokenizer: tokenizer of the texts.
    template: a name in templates.TEMPLATES.
    length: L, number of positions per row.
    pack: whether rows contain several examples. These are then shuffled by
      `seed`; otherwise they are in the order of the file.
    seed: seed of that shuffle.
    cache_dir: folder of all prepared rows.
    limit: number of examples of each task to use, from the first; -1 for all.
    retry_policy: retries of reads that fail.
    long: treatment of examples that are longer than a row, one of
      encoding.LONG.
    chunk_overlap: number of tokens that chunks of a document share, see
      encoding.Encoder.
    on_error: 'refuse' raises the error of an invalid example; 'skip' leaves the
      example out and records its error.
    form: format of the model's images; None if it takes none.
    prefix: prefix of each example in a teacher's input, see prefix_template; ''
      if it is the same for all, or there is none.
    backend: one of preparation.BACKENDS. The rows do not depend on it, nor on
      `workers` and `beam_args`.
    workers: number of local processes of the embedded backend; 0 for one per
      core.
    beam_args: pipeline options of Beam.
    on_large: called before the second of several shards is prepared.
    refresh: whether to prepare the rows again if they exist.
    say: prints a line of progress.

  Returns:
    The rows of each task, in the order of examples.tasks.

  Raises:
    ConfigError: a name or split is unknown, data is missing, invalid, empty or
      longer than every row, or a prepared folder is damaged.
    ReadError: the disk or the network failed at every attempt.
  """
  templates.check_tokenizer(tokenizer, template)
  if backend == preparation.BEAM:
    beam_backend.check(cache_dir)
  if length < 1:
    raise errors.ConfigError('data.length', str(length), legal='1 or more')
  if limit == 0 or limit < -1:
    raise errors.ConfigError(
      'data.examples', str(limit), legal='1 or more, or -1 for all'
    )
  code = task_code.find(mixture.module)
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
  if form:  # Rows of text keep their names from earlier versions.
    request['images'] = form.request
  if prefix:
    request['teacher_prefix'] = prefix
  cache_dir = paths.expand_sparse(cache_dir)
  digests = file_digests.Digests(cache_dir)
  name = f'{mixture.name}-{split}'
  stem = os.path.join(cache_dir, f'{name}-{identity.digest(request)}')
  folder = None if refresh else prepared_lib.reusable(stem, code, digests)
  reused = folder is not None
  if folder is None:
    say(f'preparing rows of {mixture.name} ({split}) in {cache_dir}')
    folder = preparation.Preparation(
      stem,
      reading.Reading(mixture, request, retry_policy),
      code,
      digests,
      tokenizer,
      backend,
      workers,
      beam_args,
      on_large,
      refresh,
      say,
    ).write()
  prepared = prepared_lib.open_folder(
    folder, request, tokenizer.pad_id, retry_policy, reused, digests, form
  )
  _warn_of_unknown_files(prepared, say)
  return prepared


def _warn_of_unknown_files(
  prepared: list[prepared_lib.Prepared], say: Callable[[str], None]
) -> None:
  """Warns once per task if changes of its data cannot be detected."""
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
