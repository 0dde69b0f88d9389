"""Compares writing a cache and training from it with the minimal work.

Uses the models of step_cpu on rows of the built-in arithmetic data. Prints one
line of JSON: tokens per second of the teacher's bare forward pass to its logits
and of writing each kind of cache; tokens per second of the training loop
without a teacher, from the cache and with the live teacher; and the fraction of
the time that training from the cache waited for rows.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections

from benchmarks import needs
from benchmarks import programs
from benchmarks import results
from benchmarks import step_cpu
from benchmarks import steps as steps_lib
from kd.config import base
from kd.core import types
from kd.input_pipeline import rows as rows_lib
from kd.input_pipeline import tokenizers
from kd.losses import chunks
from kd.models.gemma3 import config as gemma3_config
from kd.modes import cache as cache_mode
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.planning.cost import step_work
from kd.run import resolve
from kd.run import resolved
from kd.run import source as source_lib
from kd.teachers import live
from kd.teachers.cache import writer
from kd.train import best
from kd.train import loop
from kd.train import train_job
from kd.train import training_rows
from kd.train.feeds import live as live_feed

_METHODS = ('top_k', 'sampled', 'hidden')
_EXAMPLES, _STEPS = 400, 20


def _config(folder, examples, steps, source, cache):
  c = base.get_config()
  c.steps = steps
  c.teacher.source = source
  c.teacher.dtype = c.teacher.param_dtype = c.student.dtype = 'float32'
  c.data.mixture = 'arithmetic_noisy'
  c.data.tokenizer = 'bytes'
  c.data.batch_size = 4
  c.data.length = 256
  c.data.examples = examples
  c.data.folder = os.path.join(folder, 'rows')
  c.cache.batch_size = 4
  c.cache.folder = cache
  if source == 'none':
    c.losses = dict(ce=base.term('cross_entropy'))
  c.optimizer = base.adamw(base.schedule('constant', peak=1e-4, warmup_steps=0))
  c.evaluation.every, c.evaluation.sets = 0, {}
  c.checkpoint.every = steps
  c.log.every = max(steps // 2, 1)
  c.log.tensorboard = False
  return c


def _run(config, student, teacher) -> resolved.Run:
  """Returns the run of models that have no weights on disk."""
  sizes = lambda spec, path, of: student if path == 'student' else teacher
  make_mesh = lambda axes, part: mesh_lib.make(axes, jax.devices()[part])
  run = resolve.shapes(config, make_mesh, sizes)
  return dataclasses.replace(run, tokenizer=tokenizers.load('bytes', ''))


def _bare(run, teachers):
  """Returns the teacher's forward pass, reduced to the sum of its logits."""
  model, params = run.teacher, teachers[0].params
  chunk_tokens = run.config.objective.chunk_tokens

  table = model.module.unembedding(params)

  @jax.jit
  def forward(batch):
    hidden, _ = model.module.forward(params, batch, types.TapSpec((), ()))
    layout = chunks.Layout(batch.weights, chunk_tokens)

    def add(total, chunk, index):
      del index
      return total + jnp.sum(chunks.project(chunk, table))

    return chunks.fold(add, jnp.zeros(()), layout, hidden)

  return forward


def _writing(run, prepared, teachers, rounds, folder) -> dict[str, list[float]]:
  """Returns tokens per second of each round, by method."""
  config = run.config
  size = config.cache.batch_size
  numbered = rows_lib.Numbered(prepared)
  batches = [
    jax.device_put(numbered(range(first, first + size)))
    for first in range(0, len(numbered) - size + 1, size)
  ]
  tokens = len(batches) * size * config.data.length
  bare = _bare(run, teachers)
  with rules.active(run.mesh):
    bare(batches[0]).block_until_ready()
  found = {name: [] for name in ('bare', *_METHODS)}
  for number in range(rounds):
    began = time.monotonic()
    with rules.active(run.mesh):
      jax.block_until_ready([bare(batch) for batch in batches])
    found['bare'].append(tokens / (time.monotonic() - began))
    for name in _METHODS:
      where = os.path.join(folder, f'{name}-{number}')
      job = _job(run, prepared, teachers, name, where)
      found[name].append(writer.write(job))
  return found


def _job(run, prepared, teachers, name, folder):
  os.makedirs(folder)
  config = run.config.as_configdict()
  config.cache.folder = folder
  config.cache.method = base.cache_method(name)
  run = dataclasses.replace(run, config=ml_collections.FrozenConfigDict(config))
  return cache_mode.job_of(run, prepared, teachers, folder, lambda line: None)


def _training(runs, prepared, teachers, rounds, folder) -> dict[str, list[Any]]:
  """Returns the loop's metrics of its second half, per source and round."""
  found = {name: [] for name in runs}
  for number in range(rounds):
    for name, run in runs.items():
      where = os.path.join(folder, f'train-{name}-{number}')
      source, live_targets = source_lib.of(run.config), None
      if name == 'live':
        live_targets = live_feed.targets_on(run, teachers, run.mesh)
      rows = rows_lib.Rows(
        prepared, run.config.data.batch_size, 0, shuffle=True, rates='rows'
      )
      job = train_job.TrainJob(
        run=run,
        objective=run.objective,
        workdir=where,
        label=name,
        init=lambda run=run: programs.random_params(run.student.module, 0),
        feed=source.feed(
          run, rows, name, source.open(run, prepared), live_targets
        ),
        evaluate=lambda step, params, check: {},
        work=step_work.of(
          run,
          run.objective,
          training_rows.target_fraction(run, prepared),
          training_rows.have_images(prepared),
        ),
        answers=lambda step: {},
        best=best.Best('', highest=False),
        stop=best.Best('', highest=False),
      )
      with contextlib.redirect_stdout(sys.stderr):
        loop.train(job)
      with open(os.path.join(where, 'metrics.jsonl'), encoding='utf-8') as f:
        found[name].append(json.loads(f.readlines()[-1]))
  return found


def run(
  student: gemma3_config.Gemma3Config,
  teacher: gemma3_config.Gemma3Config,
  examples: int,
  steps: int,
  rounds: int,
) -> dict[str, Any]:
  """Measures and returns the result.

  Args:
    student: config of the student.
    teacher: config of the teacher.
    examples: number of examples to write to a cache.
    steps: number of training steps per source and round.
    rounds: number of measurements, whose median is returned.
  """
  with tempfile.TemporaryDirectory() as folder:
    where = os.path.join(folder, 'top_k-0')
    runs = {
      source: _run(
        _config(folder, examples, steps, source, where), student, teacher
      )
      for source in ('none', 'cached', 'live')
    }
    live_run = runs['live']
    with contextlib.redirect_stdout(sys.stderr):
      prepared = training_rows.prepare(live_run, print)
    module = live_run.teacher.module
    params = jax.device_put(
      programs.random_params(module, 1), live_run.teacher.shardings
    )
    teachers = [live.Teacher(module, params, 1.0)]
    writing = _writing(live_run, prepared, teachers, rounds, folder)
    training = _training(runs, prepared, teachers, rounds, folder)
  middle = lambda values: statistics.median(values)
  rates = {name: middle(values) for name, values in writing.items()}
  steps_per = {
    name: middle([m['perf/tokens_per_s'] for m in values])
    for name, values in training.items()
  }
  waits = [m['perf/data_wait_share'] for m in training['cached']]
  return {
    'benchmark': 'cache_cpu',
    'writing_tokens_per_s': rates,
    'writing_to_bare_ratio': {
      name: rate / rates['bare'] for name, rate in rates.items()
    },
    'training_tokens_per_s': steps_per,
    'cached_step_ratio': steps_per['none'] / steps_per['cached'],
    'live_step_ratio': steps_per['none'] / steps_per['live'],
    'cached_data_wait_share': middle(waits),
  }


def main():
  """Prints the result."""
  logging.set_verbosity(logging.ERROR)  # As `python -m kd` does.
  results.show(
    run(
      step_cpu.STUDENT,
      step_cpu.TEACHER,
      _EXAMPLES,
      _STEPS,
      steps_lib.ROUNDS.value,
    )
  )


if __name__ == '__main__':
  needs.start(main)
