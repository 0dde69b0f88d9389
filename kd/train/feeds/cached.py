"""Supplies batches with targets that --mode=cache computed."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any

import jax.numpy as jnp

from kd.config import teacher_sections
from kd.core import errors
from kd.core import identity
from kd.core import paths
from kd.core import run_info
from kd.core import types
from kd.input_pipeline import prepare
from kd.input_pipeline import retry
from kd.input_pipeline import routing
from kd.losses import dense_distributions
from kd.losses import distributions
from kd.losses import divergences
from kd.losses import sparse_distributions
from kd.partitioning import processes
from kd.partitioning import rules
from kd.run import resolved
from kd.run import routed_teachers
from kd.run import source
from kd.teachers.cache import compression
from kd.teachers.cache import manifest as manifest_lib
from kd.teachers.cache import reader
from kd.teachers.cache import teacher_files
from kd.train.feeds import abstract
from kd.train.feeds import feed


@source.SOURCES.register('cached')
class Source(source.Source):
  """The source of targets from a cache on disk."""

  @property
  def computed_by(self):
    return 'server' if self._config.teacher.server.url else 'live'

  def tokenizer_inits(self):
    folder = paths.expand(self._config.cache.folder)
    manifest = manifest_lib.read(folder, 'cache.folder')
    check_terms(self._config, manifest['request']['method'])
    # A cache contains the tokenizer that it was written with.
    return {'cache.folder': f'workdir:{self._config.cache.folder}'}

  def term_teacher(self, student, teachers):
    del teachers
    # Only layer terms use the sizes, and `check` rejects them.
    return student

  def check(self, mesh, student, objective):
    super().check(mesh, student, objective)
    if objective.layer_terms:
      raise errors.ConfigError(
        f'losses.{objective.layer_terms[0].key}',
        'compares layers, and a cache holds no layer outputs',
        legal='a term of next-token distributions, or a teacher that is live',
      )

  def describe_teacher(self):
    return f'teacher: its targets in {self._config.cache.folder}'

  def teacher_names(self):
    return (f'the cached teacher (cache.folder {self._config.cache.folder})',)

  def abstract_targets(self, run, model_config):
    config, vocab_size = run.config, run.student.config.vocab_size
    method = compression.METHODS.build(
      config.cache.method.to_dict(), 'cache.method'
    )
    shape, sharding = abstract.batch_shape(run), rules.batch_sharding(run.mesh)
    if not method.entries:
      sizes = model_config(config.teacher, 'teacher', None)
      rows = min(vocab_size, sizes.vocab_size)
      width = sizes.embed_dim
      table = rules.table_sharding(run.mesh, rows)
      dense = dense_distributions.DenseTeacher(
        abstract.array((*shape, width), config.teacher.dtype, sharding),
        abstract.array((rows, width), config.teacher.param_dtype, table),
        abstract.array((), jnp.float32, rules.replicated(run.mesh)),
      )
      mixture = dense_distributions.DenseMixture((dense,))
      return distributions.Targets(mixture, None)
    kept = *shape, min(method.entries, vocab_size)
    ids = abstract.array(kept, jnp.int32, sharding)
    numbers = abstract.array(kept, jnp.float32, sharding)
    if method.draws:
      sampled = sparse_distributions.Sampled(ids, numbers, numbers)
      if method.is_softened:
        log_sum = abstract.array(shape, jnp.float32, sharding)
        sampled = sampled.replace(log_sum=log_sum, drawn_at=method.temperature)
      return distributions.Targets(sampled, None)
    tail = abstract.array(shape, jnp.float32, sharding)
    top_k = sparse_distributions.TopK(ids, numbers, tail)
    return distributions.Targets(top_k, None)

  def open(self, run, prepared):
    router = routed_teachers.router(run.config, prepared)
    return Opened(open_cache(run, prepared), router)

  def file_warnings(self):
    folder = paths.expand(self._config.cache.folder)
    date = run_info.date(os.path.join(folder, manifest_lib.FILE))
    reused = f'{folder}: targets of {date} are used'
    digests = paths.expand_sparse(self._config.data.folder)
    inits = teacher_inits(self._config)
    return [
      reused,
      *processes.from_first(
        lambda: teacher_files.warnings(folder, inits, digests)
      ),
    ]

  def digest(self, opened):
    return identity.digest(opened.cache.manifest)

  def feed(self, run, rows, digest, opened, live_targets):
    del live_targets
    return Feed(run, rows, digest, self.teacher_names(), opened)


@dataclasses.dataclass(frozen=True)
class Opened:
  """An open cache.

  Attributes:
    cache: the cache of the run's rows.
    router: function that assigns teachers to rows; None if all teachers score
      all rows.
  """

  cache: reader.Cache
  router: routing.Router | None


class Feed(feed.Feed):
  """Batches with the targets of a cache."""

  def __init__(self, run, rows, digest, teacher_names, opened: Opened):
    """Opens the feed; see feed.Feed.

    Args:
      run: the resolved config.
      rows: function that reads rows of a step's batch.
      digest: digest of the rows, their order and the cache.
      teacher_names: names of the teachers, for messages.
      opened: the cache of these rows.
    """
    cache, router = opened.cache, opened.router
    targets = targets_of(run, cache)
    super().__init__(run, rows, digest, teacher_names, targets, router)
    self._cache = cache

  def read(self, step):
    batch = super().read(step)
    return batch, self._cache.read(batch)

  def __call__(self, step, params, read):
    del step, params
    (batch, kept), placing_s = self._place(read)
    return feed.StepInputs(batch, self._targets(kept), placing_s)


def targets_of(
  run: resolved.Run, cache: reader.Cache
) -> Callable[[types.PyTree], distributions.Targets]:
  """Returns the function from the result of Cache.read to the targets."""
  if cache.method.entries:
    return lambda kept: distributions.Targets(kept, None)
  table = reader.unembedding(cache, run.student.config.vocab_size, run.mesh)
  # The teacher computes its logits in this data type.
  dtype = cache.manifest['request']['teachers'][0]['dtype']
  weight = jnp.float32(1.0)

  def targets(kept):
    dense = dense_distributions.DenseTeacher(kept.astype(dtype), table, weight)
    return distributions.Targets(
      dense_distributions.DenseMixture((dense,)), None
    )

  return targets


def request(
  run: resolved.Run, prepared: Sequence[prepare.Prepared]
) -> dict[str, Any]:
  """Returns the part of a cache's request that comes from config and rows."""
  data, prefix = run.config.data, run.config.teacher.prefix
  routes = [
    [r.path, r.weight, list(r.tasks), list(r.values)]
    for r in routed_teachers.routes(run.config)
  ]
  return {
    'mixture': data.mixture,
    'split': data.split,
    'template': data.template,
    'length': data.length,
    'pack': data.pack,
    'rows': {
      task_rows.task: {
        'rows': task_rows.counts['rows'],
        'sha256': task_rows.counts['rows_sha256'],
      }
      for task_rows in prepared
    },
    'tokenizer': run.tokenizer.digest,
    'vocab_size': run.student.config.vocab_size,
    # Left out if empty, so that older caches keep their digests.
    **({'routes': routes} if routes else {}),
    **({'prefix': prefix} if prefix else {}),
  }


def open_cache(
  run: resolved.Run, prepared: Sequence[prepare.Prepared]
) -> reader.Cache:
  """Opens the cache of these rows.

  Raises:
    ConfigError: it belongs to other rows; names each field and both values.
  """
  folder = paths.expand(run.config.cache.folder)
  manifest = manifest_lib.read(folder, 'cache.folder')
  manifest_lib.check(
    manifest['request'], request(run, prepared), folder, 'cache.folder'
  )
  return reader.Cache(
    folder, manifest, retry.RetryPolicy(**run.config.data.read)
  )


def teacher_inits(config: source.Config) -> dict[str, str]:
  """Returns the weight sources of a cache's teachers, by config field."""
  if config.teacher.server.url:
    return {}
  specs = teacher_sections.of(config)
  towers = {
    f'{path}.vision_init': spec.vision_init
    for path, spec in specs.items()
    if spec.vision_init
  }
  return {f'{path}.init': spec.init for path, spec in specs.items()} | towers


def check_terms(config: source.Config, method: Mapping[str, Any]) -> None:
  """Raises ConfigError for losses that a cache of sampled ids cannot serve.

  Args:
    config: config of the run.
    method: compression method of the cache, as in cache.method.

  Raises:
    ConfigError: names the temperature or the name of a term.
  """
  kept = compression.METHODS.build(dict(method), 'cache.method')
  for key, spec in config.losses.items():
    if spec.name not in divergences.DIVERGENCES.names():
      continue
    path = f'losses.{key}'
    arguments = divergences.DIVERGENCES.arguments(spec.name)
    divergence = divergences.DIVERGENCES.build(
      {'name': spec.name, **{k: spec[k] for k in arguments}}, path
    )
    try:
      kept.check(spec.name, divergence, spec.temperature)
    except errors.ConfigError as e:
      raise e.within(path) from None
