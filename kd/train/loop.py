"""The training loop."""

import contextlib
import dataclasses
import time

import jax

from kd.core import buckets
from kd.core import errors
from kd.core import progress
from kd.core import quiet
from kd.input_pipeline import read_ahead
from kd.input_pipeline import retry
from kd.partitioning import processes
from kd.partitioning import rules
from kd.run import saved_params
from kd.train import adaptive_layer_map
from kd.train import checkpointing
from kd.train import early_stop
from kd.train import nonfinite_advice
from kd.train import nonfinite_origin
from kd.train import preemption
from kd.train import profiling
from kd.train import train_job
from kd.train import train_metrics
from kd.train import update as update_lib

_READ_AHEAD = 2  # Batches.
_POLL_S = 1.0  # Between checks for a request to stop.


class _Loop:
  """The mutable state of a running job."""

  def __init__(self, job: train_job.TrainJob):
    # clu imports TensorFlow: import it only when training.
    with quiet.imports():
      from kd.metrics import writers

    self._job, self._config = job, job.run.config
    self._saver = checkpointing.Saver(
      job.workdir, self._config.checkpoint.keep, self._say
    )
    self._stop_agreement = preemption.StopAgreement(job.run.mesh)
    self._update = update_lib.CompiledOnce(
      update_lib.jit(
        update_lib.make(
          job.run.student.module,
          job.objective,
          job.run.optimizer,
          job.run.learning_rate,
          self._config.optimizer.micro_batches,
          self._config.student.layer_dropout,
          self._config.student.quantize.range_decay,
        ),
        job.run.mesh,
      )
    )
    self._remap = adaptive_layer_map.AdaptiveLayerMap(
      job.run.student.module, job.objective
    )
    self._start()
    self._pending, self._texts, self._counted = None, {}, None
    self._timer = writers.StepTimer()
    self._memory = writers.device_memory
    self._profiler = profiling.Profiler(
      job.workdir,
      self._config.profile.first_step,
      self._config.profile.steps,
      self._step,
      self._timer.pause,
      self._say,
    )
    self._writer = writers.create(
      job.workdir,
      job.label,
      self._config.steps,
      self._step,
      self._evaluated,
      self._config.log.tensorboard,
      self._config.log.trackers,
      self._config,
    )

  def _say(self, line):
    if jax.process_index() == 0:
      print(buckets.shown(f'{self._job.label}: {line}'), flush=True)

  def _start(self):
    """Restores the last good checkpoint, or initializes the state."""
    job, latest = self._job, self._saver.latest
    abstract = update_lib.abstract_state(
      saved_params.abstract(job.run.student),
      job.objective,
      job.run.optimizer,
      job.run.mesh,
    )
    position = checkpointing.ResumeInfo(
      job.feed.digest, window={}, evaluated=False, stop={}
    )
    if latest is None:
      state = update_lib.init_state(
        job.init(), job.objective, job.run.optimizer, self._config.seed
      )
    else:
      job.feed.expect(self._saver.feed_state_names(latest))
      state, feed_state, position = self._saver.restore(
        latest, abstract, self._feed_state(), job.feed.digest
      )
      job.feed.load(jax.device_get(feed_state))
      self._say(f'resumes from step {latest}')
    # With other shardings than its outputs', the update would compile twice.
    self.state = jax.device_put(
      state, jax.tree.map(lambda leaf: leaf.sharding, abstract)
    )
    self._step = latest or 0
    skip = self._config.nonfinite == 'skip'
    self._window = train_metrics.MetricsWindow(
      position.window,
      self._config.max_consecutive_skips if skip else 0,
      job.feed.teacher_names,
      self._advise,
      self._say,
    )
    self._evaluated = position.evaluated
    stop = self._config.evaluation.stop
    self._early_stop = early_stop.EarlyStop(
      job.stop, stop.patience, stop.min_delta, position.stop
    )
    self._saved = self._step  # Nothing needs saving before the first step.

  def _advise(self, teachers, unchanged_since):
    """Returns nonfinite_advice.advice for this run."""
    self._saver.wait(self._step)  # Includes a checkpoint that is being saved.
    return nonfinite_advice.advice(
      teachers,
      unchanged_since,
      f'student.init {self._config.student.init}',
      nonfinite_advice.Checkpoints(
        self._saver.steps, self._saver.best, self._saver.folder
      ),
    )

  @contextlib.contextmanager
  def _add_step_to_errors(self, what):
    """Adds the step and advice to any NonFiniteError raised inside."""
    try:
      yield
    except errors.NonFiniteError as e:
      self._add_pending_metrics()  # The previous step may have failed first.
      advice = self._window.advice(self._step, e.teachers)
      raise errors.NonFiniteError(
        f'{what} step {self._step}: {e}; {advice}', e.teachers
      ) from e

  def run(self) -> early_stop.End:
    """Trains to the last step, or until early stopping; see train."""
    # Due also if the last run was preempted during this evaluation.
    if self._evaluation_due() and not self._evaluated:
      quality = self._evaluate()
      if self._step and quality is not None:
        self._saver.set_quality(self._step, quality)
    if not self._ended():
      self._train()
    reason = self._early_stop.reason if self._step < self._config.steps else ''
    if reason:
      self._say(f'ended after step {self._step}: {reason}')
    return early_stop.End(self._step, reason)

  def _ended(self):
    return self._step == self._config.steps or bool(self._early_stop.reason)

  def _train(self):
    self._job.compile_feed(self.state.params, self._say)
    rows = read_ahead.ReadAhead(
      self._job.feed.read,
      self._step,
      _READ_AHEAD,
      retry.RetryPolicy(**self._config.data.read).timeout_s,
    )
    self._timer.restart()
    with contextlib.closing(rows):
      # The first step compiles. Until it is done, there is no unsaved work.
      with progress.Progress('compiling the update', self._say):
        self._take_step(rows)
        jax.block_until_ready(self.state)
      self._timer.compiled()
      with preemption.STOP_REQUESTS.unsaved():
        self._after_step()
        while not self._ended():
          self._profiler.before(self._step, self.state)
          self._take_step(rows)
          self._profiler.after(self._step, self.state)
          self._after_step()
        self._saver.wait(self._step)

  def record_origin(self) -> None:
    """Finds, writes and prints the origin of nonfinite values."""
    if jax.process_count() > 1:
      return  # A process that fails alone would wait for the others.
    origin = nonfinite_origin.find(self._job, self.state, self._counted)
    nonfinite_origin.write(self._job.workdir, origin)
    self._say(origin.text)

  def close(self) -> None:
    """Stops background threads; waits for a save in progress."""
    self._job.feed.close()
    self._profiler.close()
    self._saver.close()
    self._writer.close()

  def _take_step(self, rows):
    job = self._job
    began = time.monotonic()
    with processes.waited_for(f'its rows of step {self._step}'):
      read = self._next(rows)
    self._timer.wait(time.monotonic() - began)
    # Dispatched before the step, so that its result does not wait for the step.
    self._stop_agreement.start()
    job.feed.layer_maps = self._remap.maps(self._step, self.state)
    with self._add_step_to_errors('the batch after'):
      fed = job.feed(self._step, self.state.params, read)
    self._timer.sample(fed.sampling_s)
    self._timer.wait(fed.placing_s)
    with rules.active(job.run.mesh):
      self.state, targets = self._remap(
        self._step, self.state, fed.batch, fed.targets
      )
      # Frees the unmapped layers before the update.
      fed = dataclasses.replace(fed, targets=None)
      self.state, out = self._update(self.state, fed.batch, targets)
    self._step += 1
    # Metrics are added one step late, so that the device is never idle.
    self._add_pending_metrics()
    scalars = {**out.scalars, **fed.metrics}
    self._pending = self._step, out.replace(scalars=scalars)
    self._texts = fed.texts
    self._timer.step()

  def _feed_state(self):
    """Returns the feed's state for a checkpoint."""
    everywhere = rules.replicated(self._job.run.mesh)
    return jax.device_put(self._job.feed.state(), everywhere)

  def _next(self, rows):
    """Returns the next rows; a single process checks for stop requests."""
    while (read := rows.get(_POLL_S)) is None:
      if jax.process_count() == 1 and preemption.STOP_REQUESTS.received:
        self._end_preempted(None)
    return read

  def _after_step(self):
    config, step = self._config, self._step
    last = step == config.steps
    if step % config.log.every == 0 or last:
      self._write_metrics()
    began = time.monotonic()
    quality = None
    if self._evaluation_due():
      self._add_pending_metrics()
      quality = self._evaluate()
      if self._ended() and step % config.log.every and not last:
        self._write_metrics()
    preempted = self._stop_agreement.result()
    due = step % config.checkpoint.every == 0
    if preempted:
      self._end_preempted(quality)
    if due or quality is not None or self._ended():
      self._save(quality)
    self._saver.check(step)
    self._timer.pause(time.monotonic() - began)

  def _end_preempted(self, quality):
    """Saves and raises PreemptedError."""
    step = self._step
    if step != self._saved:
      self._save(quality)
    self._saver.wait(step)
    raise errors.PreemptedError(
      f'{preemption.STOP_REQUESTS.reason}: saved step {step}; run the same '
      'command to resume'
    )

  def _evaluation_due(self):
    every, step = self._config.evaluation.every, self._step
    ends = step in (0, self._config.steps)
    return ends or bool(every and step % every == 0)

  def _add_pending_metrics(self):
    if self._pending is not None:
      pending, self._pending = self._pending, None
      self._counted = pending[0]
      self._window.add(*pending)
      self._counted = None

  def _write_metrics(self):
    self._add_pending_metrics()
    work = self._job.work
    metrics = {
      **self._window.take(),
      **work.with_achieved(self._timer.compute(work.tokens)),
      **self._timer.compiling(),
      **self._memory(jax.local_devices()),
    }
    self._writer.write_scalars(self._step, metrics)
    if self._texts:
      self._writer.write_texts(self._step, self._texts)
    self._timer.restart()

  def _evaluate(self):
    self._evaluated = False
    began = time.monotonic()
    try:
      with self._add_step_to_errors('evaluation after'):
        metrics = self._job.evaluate(
          self._step, self._evaluated_params(), self._stop_agreement.check
        )
    except errors.PreemptedError:
      self._end_preempted(None)
    self._evaluated = True
    if not metrics:
      return None
    self._early_stop.add(self._step, metrics)
    seconds = time.monotonic() - began
    self._writer.write_scalars(
      self._step, {**metrics, 'perf/evaluation_s': seconds}
    )
    if jax.process_index() == 0:
      self._writer.write_texts(self._step, self._job.answers(self._step))
    return self._job.best.quality(metrics)

  def _evaluated_params(self):
    if self._config.evaluation.params == 'ema':
      return self.state.averaged_params
    return self.state.params

  def _save(self, quality):
    began = time.monotonic()
    self._add_pending_metrics()
    # Flushed first: resuming assumes that earlier metrics were written.
    self._writer.flush()
    buckets.sync()
    self._saver.save(
      self._step,
      self.state,
      self._feed_state(),
      checkpointing.ResumeInfo(
        self._job.feed.digest,
        self._window.state(),
        self._evaluated,
        self._early_stop.state(),
      ),
      quality,
    )
    self._saved = self._step
    self._timer.save(time.monotonic() - began)


def train(job: train_job.TrainJob) -> early_stop.End:
  """Runs a job to its end, from its last good checkpoint if any.

  Returns:
    The step at which it ended, and the reason for an early end.

  Raises:
    NonFiniteError: a loss or gradient was not finite; names step and term.
    PreemptedError: SIGTERM or Ctrl-C was received; the state is saved.
    ReadError: rows could not be read; names them.
    KdError: a checkpoint could not be saved.
  """
  if jax.process_index() == 0:
    nonfinite_origin.remove(job.workdir)
  loop = _Loop(job)
  try:
    end = loop.run()
  except BaseException as e:
    if isinstance(e, errors.NonFiniteError) and not e.teachers:
      with contextlib.suppress(Exception):
        loop.record_origin()
    # An error in close() must not hide the original one.
    with contextlib.suppress(Exception):
      loop.close()
    raise
  loop.close()
  return end
