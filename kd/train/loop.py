"""The training loop."""

from collections.abc import Callable
import contextlib
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from kd.checkpoints import manager as manager_lib
from kd.core import errors
from kd.core import quiet
from kd.core import types
from kd.input_pipeline import rows as rows_lib
from kd.losses import objective as objective_lib
from kd.metrics import means
from kd.partitioning import rules
from kd.train import parameters
from kd.train import preemption
from kd.train import remap
from kd.train import resolve
from kd.train import update as update_lib

_READ_AHEAD = 2  # batches

Evaluate = Callable[[int, types.PyTree, Callable[[], None]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Job:
  """One student's training.

  Attributes:
    run: the resolved config.
    objective: what is made small: the run's own, or the baseline's.
    workdir: where this student's files go.
    label: what stands before its lines on the terminal.
    init: makes the student's first parameters.
    teacher_targets: from a batch to the teacher's targets, or None.
    rows: the training data.
    rows_digest: of what the rows are and in which order.
    evaluate: of (step, params, check); returns eval/ metrics, and calls check
      between batches, which raises if the run must stop.
    quality: the name of the eval/ metric whose smallest value is best.
  """

  run: resolve.Run
  objective: objective_lib.Objective
  workdir: str
  label: str
  init: Callable[[], types.PyTree]
  teacher_targets: Callable[[types.Batch], types.Targets] | None
  rows: rows_lib.Rows
  rows_digest: str
  evaluate: Evaluate
  quality: str


def place(batch: types.Batch, mesh: jax.sharding.Mesh) -> types.Batch:
  """Puts this process's rows on the mesh as part of the global batch."""
  sharding = rules.batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )


class _Window:
  """Training metrics since the last write."""

  def __init__(self, state):
    self._means = means.Means(state)

  def add(self, step: int, out: update_lib.Output) -> None:
    """Adds a step's output; raises NonFiniteError if it is not finite."""
    out = jax.device_get(out)
    if not out.finite:
      bad = [k for k, v in sorted(out.sums.items()) if not np.isfinite(v)]
      what = ' and '.join(f'loss {k!r}' for k in bad) or 'the gradient'
      raise errors.NonFiniteError(
        f'step {step}: {what} is not finite; the parameters were not '
        'changed by it and the last checkpoint is good'
      )
    for key, value in out.sums.items():
      self._means.add(f'loss/{key}', value, out.totals[key])
    self._means.add('loss', out.loss * out.weight, out.weight)
    for name, value in out.scalars.items():
      self._means.add(name, value, 1.0)
    self._means.add('target_weight', out.weight, 1.0)
    self._means.add('empty_batches', out.weight == 0, 1.0)

  def metrics(self) -> dict[str, float]:
    values = self._means.compute()
    named = {f'train/{name}': value for name, value in values.items()}
    return {**named, 'train/nonfinite': 0.0}

  def state(self) -> dict[str, Any]:
    return self._means.state()


def _items(state):
  """A state as a checkpoint's items; step is the checkpoint's name."""
  parts = {
    'opt_state': state.opt_state,
    'rng': state.rng,
    'paths': state.paths,
    'layer_maps': state.layer_maps,
  }
  # Orbax writes no empty dict.
  filled = {k: v for k, v in parts.items() if jax.tree.leaves(v)}
  return {'params': state.params, 'optimizer': filled}


class _Loop:
  """State that changes while a job runs."""

  def __init__(self, job: Job, notice: preemption.Notice):
    # clu imports TensorFlow: only a run that trains waits for it.
    with quiet.imports():
      from kd.metrics import writers

    self._job, self._config, self._notice = job, job.run.config, notice
    self._manager = manager_lib.Manager(
      job.workdir, self._config.checkpoint.keep
    )
    self._update = jax.jit(
      update_lib.make(
        job.run.student.module,
        job.objective,
        job.run.optimizer,
        job.run.rate,
        self._config.optimizer.micro_batches,
      ),
      donate_argnums=0,
    )
    self._remap = remap.Remap(job.run.student.module, job.objective)
    self._start()
    self._pending = None
    self._timer = writers.StepTimer()
    self._memory = writers.device_memory
    self._writer = writers.create(
      job.workdir,
      job.label,
      self._config.steps,
      self._step,
      self._config.log.tensorboard,
    )

  def _start(self):
    """Takes up the last checkpoint, or makes the first state."""
    job, latest = self._job, self._manager.latest_step()
    abstract = update_lib.abstract_state(
      parameters.abstract(job.run.student),
      job.objective,
      job.run.optimizer,
      job.run.mesh,
    )
    position = {'window': {}, 'evaluated': False}
    if latest is None:
      state = update_lib.init_state(
        job.init(), job.objective, job.run.optimizer, self._config.seed
      )
    else:
      items, position = self._manager.restore(latest, _items(abstract))
      if position['rows'] != job.rows_digest:
        raise errors.ConfigError(
          f'{self._manager.folder}/{latest}',
          f'was trained on rows {position["rows"]}, the config now means '
          f'rows {job.rows_digest}',
        )
      state = update_lib.TrainState(
        step=jax.numpy.asarray(latest, jax.numpy.int32),
        params=items['params'],
        **{'paths': {}, 'layer_maps': {}, **items['optimizer']},
      )
      print(f'{job.label} goes on from step {latest}', flush=True)
    # Where an update leaves it: else the second one would be compiled anew.
    self.state = jax.device_put(
      state, jax.tree.map(lambda leaf: leaf.sharding, abstract)
    )
    self._step = latest or 0
    self._window = _Window(position['window'])
    self._evaluated = position['evaluated']

  def run(self) -> update_lib.TrainState:
    """Trains to the last step; see train."""
    steps, job = self._config.steps, self._job
    # Also where a preemption came before a checkpoint's evaluation had ended.
    if self._evaluation_due() and not self._evaluated:
      self._evaluate()
    fetch = rows_lib.prefetch(
      job.rows,
      self._step,
      _READ_AHEAD,
      jax.process_index(),
      jax.process_count(),
    )
    self._timer.restart()
    try:
      while self._step < steps:
        self._take_step(fetch)
      self._manager.wait(self._step)
    finally:
      fetch.close()
    return self.state

  def close(self) -> None:
    """Ends what runs in the background; a save under way is finished."""
    self._manager.close()
    self._writer.close()

  def _take_step(self, fetch):
    job = self._job
    began = time.monotonic()
    batch = place(next(fetch), job.run.mesh)
    self._timer.wait(time.monotonic() - began)
    targets = job.teacher_targets and job.teacher_targets(batch)
    with rules.active(job.run.mesh):
      self.state = self._remap(self._step, self.state, batch, targets)
      self.state, out = self._update(self.state, batch, targets)
    self._step += 1
    # One step late, so that the device always has the next one to do.
    self._absorb()
    self._pending = self._step, out
    self._timer.step()
    self._after_step()

  def _after_step(self):
    config, step = self._config, self._step
    last = step == config.steps
    if step % config.log.every == 0 or last:
      self._write_metrics()
    began = time.monotonic()
    quality = None
    if self._evaluation_due():
      self._absorb()
      quality = self._evaluate()
    preempted = self._notice.received
    due = step % config.checkpoint.every == 0
    if due or last or preempted or quality is not None:
      self._save(quality)
    self._manager.check(step)
    self._timer.pause(time.monotonic() - began)
    if preempted:
      self._manager.wait(step)
      self._writer.flush()
      raise errors.PreemptedError(
        f'SIGTERM received: saved step {step}; the same command goes on'
      )

  def _evaluation_due(self):
    every, step = self._config.evaluation.every, self._step
    ends = step in (0, self._config.steps)
    return ends or bool(every and step % every == 0)

  def _absorb(self):
    if self._pending is not None:
      pending, self._pending = self._pending, None
      self._window.add(*pending)

  def _write_metrics(self):
    self._absorb()
    tokens = self._config.data.batch_size * self._config.data.length
    metrics = {
      **self._window.metrics(),
      **self._timer.compute(tokens),
      **self._memory(jax.local_devices()),
    }
    self._writer.write_scalars(self._step, metrics)
    self._window = _Window({})
    self._timer.restart()

  def _evaluate(self):
    self._evaluated = False
    try:
      metrics = self._job.evaluate(
        self._step, self.state.params, self._notice.check
      )
    except errors.PreemptedError:
      if self._step:
        self._save(None)
        self._manager.wait(self._step)
      raise
    self._evaluated = True
    if not metrics:
      return None
    self._writer.write_scalars(self._step, metrics)
    return metrics.get(self._job.quality)

  def _save(self, quality):
    self._absorb()
    self._manager.save(
      self._step,
      _items(self.state),
      {
        'rows': self._job.rows_digest,
        'window': self._window.state(),
        'evaluated': self._evaluated,
      },
      quality,
    )


def train(job: Job) -> update_lib.TrainState:
  """Runs a job to its last step, from its last checkpoint if it has one.

  Returns:
    The state after the last step.

  Raises:
    NonFiniteError: a loss or gradient was not finite; names step and term.
    PreemptedError: SIGTERM came; the state is saved.
    KdError: a checkpoint could not be saved.
  """
  with preemption.Notice() as notice:
    loop = _Loop(job, notice)
    with contextlib.closing(loop):
      return loop.run()
