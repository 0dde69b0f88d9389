"""Trains and evaluates the student and writes the report."""

import dataclasses
import functools
import os
from typing import Any

import jax
import ml_collections

from kd.config import base
from kd.core import identity
from kd.core import progress
from kd.core import types
from kd.diagnosis import diagnose
from kd.evaluation import side_by_side
from kd.input_pipeline import prepare as prepare_lib
from kd.losses import objective as objective_lib
from kd.losses import selection
from kd.losses import term_builder
from kd.losses import terms as terms_lib
from kd.planning.cost import step_work
from kd.run import exits
from kd.run import load_params
from kd.run import lock
from kd.run import outputs
from kd.run import own_tokenizer
from kd.run import resolve
from kd.run import resolved
from kd.run import session
from kd.run import source as source_lib
from kd.run import teacher_prefix
from kd.run import workdirs
from kd.teachers import host_weights
from kd.teachers import live
from kd.teachers import param_digest
from kd.train import best as best_lib
from kd.train import describe
from kd.train import early_stop
from kd.train import evaluate as evaluate_lib
from kd.train import evaluation_records
from kd.train import image_features
from kd.train import loop
from kd.train import report
from kd.train import row_facts
from kd.train import shared_prompts
from kd.train import train_job
from kd.train import training_rows
from kd.train.feeds import feed as feed_lib
from kd.train.feeds import live as live_feed


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Trains the student and, with evaluation.baseline, the baseline.

  Raises:
    KdError: see loop.train.
  """
  say = session.say
  run = resolve.resolve(config, session.devices(config))
  _check_trackers(run.config.log.trackers)
  changes = workdirs.check(config, workdir)
  say('\n'.join([describe.describe_run(run, workdir), *changes.notes()]))
  with lock.shared(workdir, '--workdir', say), diagnose.explained(workdir):
    data = prepare(run, say)
    try:
      _begin(run, data, workdir, changes)
    finally:
      source_lib.of(run.config).close(data.opened)


def _begin(run, data, workdir, changes):
  """Loads the teachers, records the start, and trains."""
  with progress.Progress('loading the teacher', session.say):
    teachers = load_teachers(run)
  shares = training_rows.shares_of(run, data.train)
  inputs = _inputs(run, data, teachers)
  facts = row_facts.describe(run, data.train, data.held_out)
  about = {'mixture': shares, 'rows': facts}
  workdirs.begin(run, workdir, changes, inputs, about)
  with exits.recorded(workdir):
    _train(_Training(run, data, teachers, workdir), run, workdir)


def _check_trackers(names):
  if names:
    from kd.metrics import trackers

    trackers.check(names)


def _train(training, run, workdir):
  """Trains the student and the baseline, and writes the report."""
  training.evaluate_teacher()
  ends = {}
  ends['student'] = training.fit(run.objective, workdir, 'student')
  if run.config.evaluation.baseline:
    folder = os.path.join(workdir, outputs.BASELINE)
    objective = baseline(run.objective)
    ends[outputs.BASELINE] = training.fit(objective, folder, 'baseline')
  if jax.process_index() == 0:
    workdirs.record_ends(
      workdir, {k: dataclasses.asdict(end) for k, end in ends.items()}
    )
    session.say(report.write(run, workdir, ends))


@dataclasses.dataclass(frozen=True)
class Data:
  """Prepared rows.

  Attributes:
    train: rows of each task of the training mixture.
    held_out: held-out sets.
    opened: files of the run's source of targets; see source_lib.Source.open.
    best: metric that selects the best checkpoint.
    stop: metric for early stopping.
  """

  train: list[prepare_lib.Prepared]
  held_out: list[evaluate_lib.HeldOut]
  opened: Any
  best: best_lib.Best
  stop: best_lib.Best


def prepare(run: resolved.Run, say: progress.Say) -> Data:
  """Prepares all rows, before anything is written to the workdir.

  Raises:
    ConfigError: a mixture or split is unknown, data is missing, or a cache does
      not match.
  """
  prepared = training_rows.prepare(run, say)
  training_rows.check_rationale(run, prepared, say)
  source = source_lib.of(run.config)
  opened = source.open(run, prepared)
  for line in source.file_warnings():
    say(line)
  held_out = evaluate_lib.prepare_sets(run, say)
  for line in shared_prompts.warnings(prepared, held_out):
    say(line)
  best = best_lib.check(run.config, held_out)
  stop = best
  if run.config.evaluation.stop.patience:
    stop = best_lib.check(run.config, held_out, best_lib.STOP)
  return Data(prepared, held_out, opened, best, stop)


@dataclasses.dataclass(frozen=True)
class Teachers:
  """The live teachers of a run.

  Attributes:
    models: teachers with their parameters on their devices; empty without a
      live teacher.
    digests: digests of the parameters of each teacher.
  """

  models: list[live.Teacher]
  digests: list[str]


def load_teachers(run: resolved.Run) -> Teachers:
  """Loads the live teachers."""
  models = live_feed.load(run) if run.teachers else []
  return Teachers(models, [param_digest.of(t.params) for t in models])


def _inputs(
  run: resolved.Run, data: Data, teachers: Teachers
) -> dict[str, str]:
  """Returns digests of a run's inputs by the field that names them."""
  specs = source_lib.of(run.config).teacher_specs()
  weights = dict(zip(specs, teachers.digests, strict=True))
  own = {}
  if own_tokenizer.is_used(run.config):
    digest = own_tokenizer.load(run.config.teacher.init).digest
    own['teacher.tokenizer'] = digest
  return {
    **own,
    **{f'{path}.init': digest for path, digest in weights.items()},
    **{
      f'evaluation.sets.{s.name}': identity.digest(s.identity['examples'])
      for s in data.held_out
    },
  }


class _Training:
  """The trainings of one run: of the student and of the baseline."""

  def __init__(
    self,
    run: resolved.Run,
    data: Data,
    teachers: Teachers,
    workdir: str,
  ):
    self._run, self._data, self._workdir = run, data, workdir
    self._teachers, self._teacher_targets = teachers, None
    self._read_images = image_features.image_reader(
      run, data.train, teachers.models, session.say
    )
    self._targets_on = functools.cache(
      functools.partial(live_feed.targets_on, run, teachers.models)
    )
    if teachers.models:
      self._teacher_targets = self._targets_on(run.mesh)
    self._record = evaluation_records.Recorder(
      run, data.held_out, teachers.digests, session.say
    )
    compared = (
      None
      if teacher_prefix.reads_own_rows(run.config)
      else self._teacher_targets
    )
    self._evaluator = evaluate_lib.Evaluator(
      run,
      run.student,
      compared,
      data.held_out,
      session.say,
      token_kl=run.config.evaluation.token_kl,
    )

  def evaluate_teacher(self) -> None:
    """Evaluates the first teacher, if one is loaded."""
    run, teachers = self._run, self._teachers
    if run.teacher is None or not self._data.held_out:
      return
    if own_tokenizer.is_used(run.config):
      session.say(
        'the teacher is not evaluated: its tokenizer is not that of the rows'
      )
      return

    def measure():
      targets = self._targets_on(run.teacher.mesh)
      full = live_feed.load_full_precision(run)
      if full is not None:
        targets = live_feed.targets_on(run, full, run.teacher.mesh)
      evaluator = evaluate_lib.Evaluator(
        run, run.teacher, targets, self._data.held_out, session.say
      )
      params = host_weights.to_device(teachers.models[0].params)
      return evaluator(params, lambda: None)

    metrics = self._record(
      self._workdir,
      'teacher',
      run.teacher,
      teachers.digests[0],
      measure,
      shared=True,
    )
    for line in report.precision_lines(run, metrics):
      session.say(line)

  def fit(
    self, objective: objective_lib.Objective, folder: str, label: str
  ) -> early_stop.End:
    """Runs one training and returns its end; raises as loop.train."""
    os.makedirs(folder, exist_ok=True)
    return loop.train(
      train_job.TrainJob(
        run=self._run,
        objective=objective,
        workdir=folder,
        label=label,
        init=self._init,
        feed=self._feed(objective),
        evaluate=functools.partial(self._evaluate, folder),
        answers=functools.partial(self._answers, folder, label),
        work=step_work.of(
          self._run,
          objective,
          training_rows.target_fraction(self._run, self._data.train),
          training_rows.have_images(self._data.train),
        ),
        best=self._data.best,
        stop=self._data.stop,
        compile_feed=self._compile(objective),
      )
    )

  def _init(self) -> types.PyTree:
    run, teachers = self._run, self._teachers.models
    teacher_params = None
    if teachers:
      teacher_params = host_weights.to_device(teachers[0].params)
    params = load_params.load(
      run.student, run.config.seed, 'student.init', teacher_params
    )
    # The baseline may begin in a later process, but with the same parameters.
    workdirs.check_input(self._workdir, 'student.init', param_digest.of(params))
    return params

  def _feed(self, objective):
    run, data = self._run, self._data
    source = source_lib.of(run.config)
    rows = training_rows.read(run, data.train, self._read_images)
    if not objective.needs_teacher:
      # Without a teacher, rows do not depend on the source of targets.
      digest = training_rows.digest(run, data.train, None)
      return feed_lib.Feed(run, rows, digest)
    digest = training_rows.digest(run, data.train, source.digest(data.opened))
    return source.feed(run, rows, digest, data.opened, self._teacher_targets)

  def _compile(self, objective):
    if not objective.needs_teacher:
      return lambda *_: None  # No teacher, see _feed.
    source = source_lib.of(self._run.config)
    return functools.partial(source.compile, self._run, self._data.train)

  def _folder(self, folder, step):
    # Both students start with the same parameters, which are evaluated once.
    return folder if step else self._workdir

  def _evaluate(self, folder, step, params, check):
    if not self._data.held_out:
      return {}
    return self._record(
      self._folder(folder, step),
      f'step_{step}',
      self._run.student,
      param_digest.of(params),
      lambda: self._evaluator(params, check),
    )

  def _answers(self, folder, label, step):
    student = evaluation_records.path(
      self._folder(folder, step), f'step_{step}'
    )
    teacher = evaluation_records.path(self._workdir, 'teacher')
    return side_by_side.texts_of({'teacher': teacher, label: student})


def baseline(objective: objective_lib.Objective) -> objective_lib.Objective:
  """Returns the baseline's objective: only cross-entropy, at all positions.

  The weights of modalities are those of the run.
  """
  spec = base.term('cross_entropy').to_dict()
  context = terms_lib.Context(steps=1, student=None, teacher=None)
  return objective_lib.Objective(
    terms=term_builder.build({'ce': spec}, context),
    selection=selection.everywhere(),
    chunk_tokens=objective.chunk_tokens,
    modalities=objective.modalities,
  )
