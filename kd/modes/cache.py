"""Computes the teacher's targets once, for training runs to reuse."""

from collections.abc import Sequence
import contextlib
from typing import Any

import jax
import ml_collections
import numpy as np

from kd.core import buckets
from kd.core import errors
from kd.core import paths
from kd.core import progress
from kd.images import features
from kd.input_pipeline import prepare as prepare_lib
from kd.partitioning import processes
from kd.run import lock
from kd.run import model_checks
from kd.run import own_tokenizer
from kd.run import resolve
from kd.run import resolved
from kd.run import session
from kd.run import source
from kd.sampling import fields as sampling_fields
from kd.teachers import live
from kd.teachers import param_digest
from kd.teachers.cache import compression
from kd.teachers.cache import report
from kd.teachers.cache import scorer as scorer_lib
from kd.teachers.cache import teacher_files
from kd.teachers.cache import verification
from kd.teachers.cache import writer
from kd.train import training_rows
from kd.train.feeds import cached as cached_feed
from kd.train.feeds import live as live_feed
from kd.train.feeds import server as server_feed

_PATH = 'cache.folder'


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes a cache, or checks and reports an existing one; see docs/cache.md.

  Raises:
    ConfigError: the cache belongs to another run or other rows, is damaged, or
      its folder cannot be written.
    NonFiniteError: the teacher's logits are not finite.
  """
  computed_by = source.of(config).computed_by
  if computed_by:
    # The config of a run that reads the cache is also used to compute it.
    config = config.copy_and_resolve_references()
    config.teacher.source = computed_by
    # Image features are the student's; here the teacher needs pixels.
    config.data.images.features = features.NONE
  run = resolve.resolve(config, session.devices(config))
  say = session.say
  for line in model_checks.template_warnings(run, model_checks.models(run)):
    say(line)
  _check(run)
  folder = paths.expand(run.config.cache.folder)
  prepared = training_rows.prepare(run, say)
  with lock.shared(folder, _PATH, say):
    is_complete = writer.is_complete(folder)
    # Must come before loading, so that training from the cache notices files
    # that change during scoring.
    files = processes.from_first(
      lambda: teacher_files.describe(
        cached_feed.teacher_inits(run.config),
        paths.expand_sparse(run.config.data.folder),
      )
    )
    # Also for a complete cache, whose targets must be those of this teacher.
    if run.teachers:
      job = job_of(run, prepared, live_feed.load(run), folder, say)
    else:
      job = _served_job(run, prepared, folder, say)
    with contextlib.closing(job.scorer):
      if is_complete:
        writer.check(job, run.config.cache.repair)
      else:
        writer.write(job)
      processes.from_first(lambda: teacher_files.record(folder, files))
      if jax.process_count() > 1:
        buckets.refresh(folder)  # Process 0 wrote the last files.
      cache = cached_feed.open_cache(run, prepared)
      report.report(cache, prepared, workdir, say)
      if run.config.cache.verify:
        verification.verify(job, cache, run.config.cache.verify)


def job_of(
  run: resolved.Run,
  prepared: Sequence[prepare_lib.Prepared],
  teachers: Sequence[live.Teacher],
  folder: str,
  say: progress.Say,
) -> writer.CacheJob:
  """Returns the job that computes the cache of a config.

  Args:
    run: the resolved config, with live teachers.
    prepared: the rows of each task.
    teachers: the run's teachers with their parameters.
    folder: folder of the cache.
    say: function that prints a line for the user.
  """
  config, method = run.config, _method(run.config)
  size = run.student.config.vocab_size
  if method.entries:
    # Rows of the unembedding beyond the tokenizer's ids are padding.
    size = run.tokenizer.vocab_size
  scorer = scorer_lib.LiveScorer(
    *(teachers, method, size, config.objective.chunk_tokens),
    *(config.seed, config.cache.batch_size),
    live_feed.changes(run, prepared, all_fit=True),
  )
  described = [
    {
      'digest': param_digest.of(loaded.params),
      'share': teacher.weight,
      'dtype': str(np.dtype(teacher.model.module.dtype)),
      'param_dtype': teacher.model.param_dtype,
      **teacher.model.config.to_dict(),
    }
    for loaded, teacher in zip(teachers, run.teachers, strict=True)
  ]
  return _job(run, prepared, scorer, described, folder, say)


def _served_job(run, prepared, folder, say) -> writer.CacheJob:
  """Returns the job for a teacher on a server; raises if it is unusable."""
  teacher = server_feed.open_teacher(run, prepared, _method(run.config).entries)
  described = {
    'digest': teacher.digest,
    'dtype': 'float32',
    **teacher.description,
  }
  scorer = scorer_lib.ServedScorer(teacher, run.mesh)
  return _job(run, prepared, scorer, [described], folder, say)


def _job(run, prepared, scorer, described, folder, say):
  config = run.config
  return writer.CacheJob(
    folder=folder,
    request={
      **cached_feed.request(run, prepared),
      'method': _recorded(config.cache.method.to_dict()),
      'temperature': 1.0,
      'seed': config.seed,
      'teachers': described,
    },
    prepared=prepared,
    length=config.data.length,
    scorer=scorer,
    teacher_names=source.of(config).teacher_names(),
    method=_method(config),
    tokenizer=run.tokenizer,
    vocab_size=run.student.config.vocab_size,
    shard_rows=config.cache.shard_rows,
    batch_size=config.cache.batch_size,
    say=say,
  )


def _recorded(method: dict[str, Any]) -> dict[str, Any]:
  """Returns a method in the form that manifests record."""
  if 'temperature' in method and method['temperature'] == 1:
    # Caches of earlier versions, where it was always 1, keep their digests.
    del method['temperature']
  return method


def _method(config) -> compression.Method:
  spec = config.cache.method.to_dict()
  return compression.METHODS.build(spec, 'cache.method')


def _check(run):
  method = _method(run.config)
  if not run.config.cache.folder:
    raise errors.ConfigError(_PATH, "found ''", legal='a folder')
  is_served = run.config.teacher.source == 'server'
  if not run.teachers and not is_served:
    raise errors.ConfigError(
      'teacher.source',
      f'found {run.config.teacher.source!r}: there is no teacher to score rows',
      legal="'live', 'on_policy' or 'cached', with teacher.init; or 'server'",
    )
  if is_served and method.name != 'top_k':
    raise errors.ConfigError(
      'cache.method.name',
      f'found {method.name!r}, and a server returns only the most likely ids',
      legal='top_k',
    )
  if own_tokenizer.is_used(run.config):
    raise errors.ConfigError(
      'teacher.tokenizer',
      "found 'own', and a cache has targets for the student's tokens",
      legal="'shared'",
    )
  sampling_fields.check_devices(
    run.config.cache.batch_size,
    run.mesh if is_served else run.teacher.mesh,
    'cache.batch_size',
    axes="data x fsdp x pipeline of the teacher's mesh",
  )
  if method.is_softened and len(run.teachers) > 1:
    raise errors.ConfigError(
      'cache.method.temperature',
      f'found {method.temperature}, and there are {len(run.teachers)} '
      'teachers, which are mixed at temperature 1',
      legal='1.0, or one teacher',
    )
  if not method.entries and len(run.teachers) > 1:
    raise errors.ConfigError(
      'cache.method.name',
      f'found {method.name!r}, and there are {len(run.teachers)} teachers',
      legal='top_k, nucleus, sampled, stratified, or one teacher',
    )
