"""Prepares, mixes and reads the rows that a run trains on."""

from collections.abc import Callable, Iterable, Sequence
import functools

from kd.config import base
from kd.core import errors
from kd.core import identity
from kd.core import progress
from kd.core import types
from kd.images import features
from kd.input_pipeline import image_rows
from kd.input_pipeline import mixing
from kd.input_pipeline import mixtures
from kd.input_pipeline import prepare as prepare_lib
from kd.input_pipeline import rationale_dropping
from kd.input_pipeline import retry
from kd.input_pipeline import routing
from kd.input_pipeline import rows as rows_lib
from kd.losses import span_objective
from kd.losses import terms
from kd.run import model_checks
from kd.run import own_tokenizer
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import teacher_prefix
from kd.train import shared_rows

_CHECKED = 64  # Rows of each task.


def prepare(run: resolved.Run, say: progress.Say) -> list[prepare_lib.Prepared]:
  """Prepares the rows of the training mixture.

  Raises:
    ConfigError: an unknown mixture or split, or missing data.
  """
  config = run.config
  prepare_train = functools.partial(
    prepare_lib.prepare,
    mixtures.training(config),
    config.data.split,
    tokenizer=run.tokenizer,
    template=config.data.template,
    length=config.data.length,
    pack=config.data.pack,
    seed=config.seed if config.data.seed < 0 else config.data.seed,
    cache_dir=config.data.folder,
    limit=config.data.examples,
    on_error=config.data.on_error,
    form=run.image_form,
    prefix=teacher_prefix.of_rows(config),
    retry_policy=retry.RetryPolicy(**config.data.read),
    long=config.data.long,
    chunk_overlap=config.data.chunk_overlap,
    backend=config.data.backend,
    workers=config.data.workers,
    beam_args=config.data.beam_args,
    say=say,
  )
  prepared = shared_rows.prepare(
    'rows to train on', prepare_train, config.data.refresh
  )
  for task_rows in prepared:
    say(task_rows.describe())
  model_checks.check_images(run, prepared)
  _check_image_settings(run, prepared)
  if run.teachers and teacher_prefix.reads_own_rows(config):
    _check_teacher_rows(run, prepared, say)
  routing.check_tasks(
    routed_teachers.routes(config), [task_rows.task for task_rows in prepared]
  )
  routed_teachers.router(config, prepared)
  if len(prepared) > 1:
    for line in mixing.lines(shares_of(run, prepared), config.data.rates):
      say(line)
  return prepared


def have_images(prepared: Sequence[prepare_lib.Prepared]) -> bool:
  """Returns whether any row of a mixture has an image."""
  return any(any(task_rows.images) for task_rows in prepared)


def _check_teacher_rows(run, prepared, say):
  """Raises ConfigError if teacher.length is too short for the first rows."""
  for_teacher = teacher_prefix.rows(run, prepared)
  most = own_tokenizer.length(run.config)
  where = 'outside of all chunks'
  if own_tokenizer.compares_positions(run):
    where = 'not at a token boundary of both tokenizers'
  for task_rows in prepared:
    count = min(_CHECKED, task_rows.counts['rows'])
    batch = rows_lib.Numbered([task_rows])(range(count))
    needed = for_teacher.positions(batch)
    if max(needed) > most:
      raise errors.ConfigError(
        'teacher.length',
        f"found {most}, but one of the teacher's first {count} rows of "
        f'{task_rows.task} needs {max(needed)} positions',
        legal=f'{max(needed)} or more',
      )
    if not own_tokenizer.is_used(run.config):
      say(
        f'{task_rows.task}: with teacher.prefix up to {max(needed)} of {most} '
        f'positions (the first {count} rows)'
      )
      continue
    (left_out,) = span_objective.scalars(for_teacher(batch)).values()
    if left_out == 1:
      raise errors.ConfigError(
        'teacher.tokenizer',
        f'all targets of the first {count} rows of {task_rows.task} are '
        f"{where}: the teacher's tokenizer changes each text",
        legal='a tokenizer that keeps texts as they are (SentencePiece: '
        'add_dummy_prefix=False, the identity as normalization)',
      )
    say(
      f"{task_rows.task}: in the teacher's tokenizer up to {max(needed)} of "
      f'{most} positions, {float(left_out):.1%} of the targets are {where} '
      f'(the first {count} rows)'
    )


def shares_of(
  run: resolved.Run, prepared: Sequence[prepare_lib.Prepared]
) -> dict[str, dict[str, float]]:
  """Returns each task's shares of the run, as recorded in run.json."""
  config = run.config
  rows = config.steps * config.data.batch_size
  return mixing.describe(prepared, config.data.rates, rows)


def target_fraction(
  run: resolved.Run, prepared: Sequence[prepare_lib.Prepared]
) -> float:
  """Returns the mean target weight per position of the run, at most 1."""
  shares = shares_of(run, prepared)
  weight = sum(
    shares[p.task]['rows'] * p.counts['target_weight'] / p.counts['rows']
    for p in prepared
  )
  return min(weight / run.config.data.length, 1.0)


def _check_image_settings(run, prepared):
  """Raises ConfigError for image settings if no row has an image."""
  if have_images(prepared):
    return
  for term in run.objective.terms:
    if term.loss.part == terms.IMAGE:
      raise errors.ConfigError(
        f'losses.{term.key}.part',
        f'found {terms.IMAGE!r}, and no row has an image',
        legal='rows with images, or another part',
      )
  declared = run.config.objective.modalities.to_dict()
  if declared != base.modalities().to_dict():
    raise errors.ConfigError(
      'objective.modalities',
      'weighs images, and no row has one',
      legal='rows with images, or this setting left out',
    )
  kind = run.config.data.images.features
  if kind != features.NONE:
    raise errors.ConfigError(
      'data.images.features',
      f'found {kind!r}, and no row has an image',
      legal=f'rows with images, or {features.NONE!r}',
    )


def check_rationale(
  run: resolved.Run, prepared: Sequence[prepare_lib.Prepared], say: progress.Say
) -> None:
  """Raises ConfigError for rationale settings if no task has rationales.

  Warns about tasks without rationales if only some have them.
  """
  settings = {
    f'losses.{term.key}.part': "found 'rationale'"
    for term in run.objective.terms
    if term.loss.part == 'rationale'
  }
  if _dropped(run) is not None:
    settings['data.rationale.drop_fraction'] = 'found more than 0'
  shown = mixtures.shown(run.config.data.mixture)
  without = [p.task for p in prepared if not p.counts['rationale_weight']]
  for path, problem in settings.items():
    if len(without) == len(prepared):
      raise errors.ConfigError(
        path,
        f'{problem}, but {shown!r} has no rationales',
        legal='a task with a rationale feature, or this setting left out',
      )
    for task in without:
      say(f'warning: {path}: {problem}, and task {task!r} has no rationale')


def digest(
  run: resolved.Run,
  prepared: Sequence[prepare_lib.Prepared],
  source_digest: str | None,
) -> str:
  """Returns the digest of the rows, their order and the source's files.

  Training resumes only with the same digest.
  """
  shares = mixing.row_shares(prepared, run.config.data.rates)
  prepared = [
    [task_rows.counts['rows_sha256'], share]
    for task_rows, share in zip(prepared, shares, strict=True)
  ]
  named = [prepared, run.config.seed, run.config.data.batch_size]
  if source_digest:
    named.append(source_digest)
  return identity.digest(named)


def _dropped(run):
  """Returns the fraction of rationales to drop, by step, or None."""
  spec = run.config.data.rationale.to_dict()
  return rationale_dropping.build(spec, 'data.rationale', run.config.steps)


def read(
  run: resolved.Run,
  prepared: Sequence[prepare_lib.Prepared],
  read_images: rows_lib.ReadImages = image_rows.read,
) -> Callable[[int, Iterable[int]], types.Batch]:
  """Returns the function that reads the training rows of a step.

  Args:
    run: the resolved config.
    prepared: the rows of each task of the mixture.
    read_images: function that reads images; see rows.Rows.
  """
  config = run.config
  rows = rows_lib.Rows(
    prepared,
    config.data.batch_size,
    config.seed,
    shuffle=True,
    rates=config.data.rates,
    read_images=read_images,
  )
  dropped = _dropped(run)
  if dropped is None:
    return rows
  pad_id = run.tokenizer.pad_id
  return rationale_dropping.Shortened(rows, dropped, config.seed, pad_id)
