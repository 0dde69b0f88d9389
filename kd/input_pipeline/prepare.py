"""Prepares a task or mixture once: tokenized, packed, in ArrayRecord files."""

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

Prepared = prepared_lib.Prepared  # What `prepare` returns for a task.

FORMAT = 5  # Raise it when what is written changes its meaning.

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
  made from the same request, code and data files. Otherwise the examples are
  divided into shards, which processes that share the folder prepare together,
  and of which those that an interrupted call has completed are kept. The folder
  gets its name when it is complete.

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
    form: how the model takes images; None if it takes none.
    prefix: text that a teacher reads before each example, see prefix_template;
      '' if it is the same for all, or there is none.
    backend: prepares shards, one of preparation.BACKENDS. The rows depend on
      none of these three.
    workers: number of processes of this machine of the embedded backend; 0: one
      on each core.
    beam_args: arguments of Beam's pipeline.
    on_large: called once it is known that there are several shards to prepare.
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
  if backend == preparation.BEAM:
    beam_backend.check(cache_dir)
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
  if form:  # Rows of text keep the names that earlier versions gave them.
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
