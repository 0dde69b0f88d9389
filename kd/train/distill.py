"""Training a student from a teacher, with what it is compared to."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import os
from typing import Any

import jax

from kd.config import base
from kd.core import errors
from kd.core import identity
from kd.core import types
from kd.evaluation import side_by_side
from kd.input_pipeline import mixing
from kd.input_pipeline import prepare as prepare_lib
from kd.input_pipeline import reading
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import shortening
from kd.losses import catalog
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import terms as terms_lib
from kd.partitioning import processes
from kd.teachers import fingerprints
from kd.teachers import live
from kd.train import best as best_lib
from kd.train import evaluate as evaluate_lib
from kd.train import loop
from kd.train import outputs
from kd.train import parameters
from kd.train import recorded
from kd.train import report
from kd.train import resolved
from kd.train import workdirs
from kd.train.feeds import feed as feed_lib
from kd.train.feeds import labels
from kd.train.feeds import live as live_feed

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Data:
  """Prepared rows.

  Attributes:
    train: the training mixture's parts.
    held_out: the evaluation sets.
    opened: the files of the run's source of targets; see feed.Source.open.
  """

  train: list[prepare_lib.Prepared]
  held_out: list[evaluate_lib.HeldOut]
  opened: Any


def prepare(run: resolved.Run, say: Say) -> Data:
  """Prepares all rows, before anything is written to the workdir.

  Raises:
    ConfigError: an unknown mixture or split, data that is not there, or a cache
      of something else.
  """
  parts = prepare_rows(run, say)
  _check_rationale(run, parts, say)
  source = feed_lib.source(run.config)
  opened = source.open(run, parts)
  for line in source.warnings():
    say(line)
  held_out = evaluate_lib.prepare_sets(run, say)
  best_lib.check(run.config, held_out)
  return Data(parts, held_out, opened)


def prepare_rows(run: resolved.Run, say: Say) -> list[prepare_lib.Prepared]:
  """Prepares the rows of the training mixture; raises as `prepare`."""
  config = run.config
  prepare_train = functools.partial(
    prepare_lib.prepare,
    config.data.mixture,
    config.data.split,
    tokenizer=run.tokenizer,
    template=config.data.template,
    length=config.data.length,
    pack=config.data.pack,
    seed=config.seed if config.data.seed < 0 else config.data.seed,
    cache_dir=config.data.folder,
    limit=config.data.examples,
    module=config.data.module,
    patience=reading.Patience(**config.data.read),
    # The other processes then reuse what process 0 has prepared.
    refresh=config.data.refresh and jax.process_index() == 0,
    say=say,
  )
  parts = processes.first_then_all('rows to train on', prepare_train)
  for part in parts:
    say(part.describe())
  if len(parts) > 1:
    for line in mixing.lines(describe_mixture(run, parts), config.data.rates):
      say(line)
  _check_same_rows(run, parts)
  return parts


def describe_mixture(
  run: resolved.Run, parts: Sequence[prepare_lib.Prepared]
) -> dict[str, dict[str, float]]:
  """Returns each task's shares of the run, as run.json records them."""
  config = run.config
  rows = config.steps * config.data.batch_size
  return mixing.describe(parts, config.data.rates, rows)


def _check_rationale(run, parts, say):
  """Rejects rationale settings if no task of the mixture has rationales.

  Warns if only some have.
  """
  settings = {
    f'losses.{term.key}.part': "found 'rationale'"
    for term in run.objective.terms
    if term.loss.part == 'rationale'
  }
  if _dropped(run) is not None:
    settings['data.rationale.dropped'] = 'found more than 0'
  without = [p.task for p in parts if not p.counts['rationale_weight']]
  for path, problem in settings.items():
    if len(without) == len(parts):
      raise errors.ConfigError(
        path,
        f'{problem}, and {run.config.data.mixture!r} has no rationale',
        legal='a task with a rationale feature, or this setting left out',
      )
    for task in without:
      say(f'warning: {path}: {problem}, and task {task!r} has no rationale')


def _check_same_rows(run, parts):
  """Refuses a process that has other rows than process 0."""
  found = _rows_digest(run, parts, None)
  first = processes.from_first(lambda: found)
  if found != first:
    raise errors.ConfigError(
      'data.folder',
      f'process {jax.process_index()} has rows {found}, process 0 has {first}',
      legal='a folder that all processes see, or the same data for each',
    )


def _rows_digest(run, parts, source_digest):
  """Returns the digest of the rows, their order and the source's files.

  Training with another digest is other training.
  """
  shares = mixing.row_shares(parts, run.config.data.rates)
  parts = [
    [part.counts['rows_sha256'], share]
    for part, share in zip(parts, shares, strict=True)
  ]
  named = [parts, run.config.seed, run.config.data.batch_size]
  if source_digest:
    named.append(source_digest)
  return identity.digest(named)


@dataclasses.dataclass(frozen=True)
class Teachers:
  """The live teachers of a run.

  Attributes:
    models: with their parameters on their devices; empty without a live
      teacher.
    digests: of the parameters of each.
  """

  models: list[live.Teacher]
  digests: list[str]


def load_teachers(run: resolved.Run) -> Teachers:
  """Loads the live teachers."""
  models = live_feed.load(run) if run.teachers else []
  return Teachers(models, [fingerprints.of(t.params) for t in models])


def inputs(run: resolved.Run, data: Data, teachers: Teachers) -> dict[str, str]:
  """Returns digests of what a run reads, by the field that names it."""
  specs = feed_lib.source(run.config).teacher_specs()
  weights = dict(zip(specs, teachers.digests, strict=True))
  return {
    **{f'{path}.init': digest for path, digest in weights.items()},
    **{
      f'evaluation.sets.{s.name}': identity.digest(s.identity['examples'])
      for s in data.held_out
    },
  }


def train(
  run: resolved.Run, data: Data, teachers: Teachers, workdir: str, say: Say
) -> None:
  """Trains the student, then if asked for the baseline; writes the report.

  Raises:
    KdError: see loop.train.
  """
  config = run.config
  teacher_params = teacher_targets = None
  if teachers.models:
    teacher_params = teachers.models[0].params
    targets_on = functools.cache(
      functools.partial(live_feed.targets_on, run, teachers.models)
    )
    teacher_targets = targets_on(run.mesh)
  record = recorded.Recorder(run, data.held_out, teachers.digests, say)
  student_eval = evaluate_lib.Evaluator(
    run, run.student, teacher_targets, data.held_out, say
  )
  if run.teacher is not None and data.held_out:
    teacher_eval = evaluate_lib.Evaluator(
      run, run.teacher, targets_on(run.teacher.mesh), data.held_out, say
    )
    record(
      workdir,
      'teacher',
      run.teacher,
      teachers.digests[0],
      lambda: teacher_eval(teacher_params, lambda: None),
      shared=True,
    )

  def init() -> types.PyTree:
    params = parameters.load(
      run.student, config.seed, 'student.init', teacher_params
    )
    # The baseline may begin in a later process: from the same parameters.
    workdirs.check_input(workdir, 'student.init', fingerprints.of(params))
    return params

  def open_feed(objective):
    source, rows = feed_lib.source(config), training_rows(run, data)
    digest = _rows_digest(run, data.train, source.digest(data.opened))
    if not objective.needs_teacher:
      # Labels alone train on the data's own rows, whatever the source adds.
      return labels.Feed(run, rows, digest)
    return source.feed(run, rows, digest, data.opened, teacher_targets)

  def fit(objective, folder, label):
    def evaluate(step, params, check):
      if not data.held_out:
        return {}
      # Both students start from the same parameters: measured once.
      where = folder if step else workdir
      return record(
        where,
        f'step_{step}',
        run.student,
        fingerprints.of(params),
        lambda: student_eval(params, check),
      )

    def answers(step):
      where = folder if step else workdir
      student = recorded.path(where, f'step_{step}')
      teacher = recorded.path(workdir, 'teacher')
      return side_by_side.texts_of({'teacher': teacher, label: student})

    job = loop.Job(
      run=run,
      objective=objective,
      workdir=folder,
      label=label,
      init=init,
      feed=open_feed(objective),
      evaluate=evaluate,
      answers=answers,
      best=best_lib.choose(config),
    )
    loop.train(job)

  fit(run.objective, workdir, 'student')
  if config.evaluation.baseline:
    folder = os.path.join(workdir, outputs.BASELINE)
    os.makedirs(folder, exist_ok=True)
    fit(baseline(run.objective), folder, 'baseline')
  if jax.process_index() == 0:
    say(report.write(run, workdir))


def _dropped(run):
  """The share of rationales that rows are without, by step, or None."""
  spec = run.config.data.rationale.to_dict()
  return shortening.build(spec, 'data.rationale', run.config.steps)


def training_rows(
  run: resolved.Run, data: Data
) -> Callable[[int, Iterable[int]], types.Batch]:
  """The training rows by step."""
  config = run.config
  rows = rows_lib.Rows(
    data.train,
    config.data.batch_size,
    config.seed,
    shuffle=True,
    rates=config.data.rates,
  )
  dropped = _dropped(run)
  if dropped is None:
    return rows
  pad_id = run.tokenizer.pad_id
  return shortening.Shortened(rows, dropped, config.seed, pad_id)


def baseline(objective: objective_lib.Objective) -> objective_lib.Objective:
  """What the baseline is trained with: cross-entropy alone, everywhere."""
  spec = base.term('cross_entropy').to_dict()
  context = terms_lib.Context(steps=1, student=None, teacher=None)
  return objective_lib.Objective(
    terms=catalog.build({'ce': spec}, context),
    selection=selection.everywhere(),
    chunk_tokens=objective.chunk_tokens,
  )
