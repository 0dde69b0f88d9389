"""Where the teacher's targets of a run come from."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kd.core import identity
from kd.core import paths
from kd.core import types
from kd.input_pipeline import prepare
from kd.input_pipeline import reading
from kd.losses import taps
from kd.models import gemma3
from kd.partitioning import processes
from kd.teachers import cached
from kd.teachers import live
from kd.teachers import manifest as manifest_lib
from kd.teachers import source_files
from kd.train import parameters
from kd.train import resolve

Beside = types.PyTree


def load_teachers(run: resolve.Run) -> list[live.Teacher]:
  """The live teachers, with their parameters on their devices."""
  paths = resolve.teacher_specs(run.config)
  return [
    live.Teacher(
      model.module,
      parameters.load(model, run.config.seed, f'{path}.init', None),
      share,
    )
    for path, (model, share) in zip(paths, run.teachers, strict=True)
  ]


def teacher_inits(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Returns where the weights of all teachers are, by config field.

  Also if they are not loaded, as the targets are cached.
  """
  others = {
    f'teacher.others.{name}.init': spec.init
    for name, spec in config.teacher.others.items()
  }
  return {'teacher.init': config.teacher.init, **others}


def names(run: resolve.Run) -> tuple[str, ...]:
  """Returns how messages call each teacher of the run's targets."""
  if run.config.teacher.source == 'cached':
    return (f'the cached teacher (cache.folder {run.config.cache.folder})',)
  return tuple(
    f'the teacher ({path}.init {spec.init})'
    for path, spec in resolve.teacher_specs(run.config).items()
  )


def live_on(
  run: resolve.Run, teachers: Sequence[live.Teacher]
) -> Callable[[jax.sharding.Mesh], Callable[[types.Batch], types.Targets]]:
  """The function to the teachers' targets, by the mesh that batches are on."""
  _, spec = taps.specs(run.objective.taps_terms)
  size = run.student.config.vocab_size
  make = functools.partial(live.make, teachers, size, gemma3.TapSpec(*spec))
  return functools.cache(make)


def request(
  run: resolve.Run, parts: Sequence[prepare.Prepared]
) -> dict[str, Any]:
  """What of a cache's manifest follows from a config and its rows alone."""
  config = run.config
  return {
    'mixture': config.data.mixture,
    'split': config.data.split,
    'template': config.data.template,
    'length': config.data.length,
    'pack': config.data.pack,
    'rows': {
      part.task: {
        'rows': part.counts['rows'],
        'sha256': part.counts['rows_sha256'],
      }
      for part in parts
    },
    'tokenizer': run.tokenizer.digest,
    'vocab_size': run.student.config.vocab_size,
  }


def open_cache(
  run: resolve.Run, parts: Sequence[prepare.Prepared]
) -> cached.Cache:
  """The cache of these rows.

  Raises:
    ConfigError: it holds something else: names each field and both values.
  """
  folder = paths.expand(run.config.cache.folder)
  manifest = manifest_lib.read(folder, 'cache.folder')
  manifest_lib.check(
    manifest['request'], request(run, parts), folder, 'cache.folder'
  )
  return cached.Cache(
    folder, manifest, reading.Patience(**run.config.data.read)
  )


def cache_warnings(run: resolve.Run) -> list[str]:
  """Returns warnings about a cache whose teachers' files have changed."""
  folder = paths.expand(run.config.cache.folder)
  inits = teacher_inits(run.config)
  digests = paths.expand(run.config.data.folder)
  return processes.from_first(
    lambda: source_files.warnings(folder, inits, digests)
  )


def digest(cache: cached.Cache) -> str:
  """Returns the digest of all that a cache holds."""
  return identity.digest(cache.manifest)


def from_cache(
  run: resolve.Run, cache: cached.Cache
) -> Callable[[types.Batch, Beside], types.Targets]:
  """Returns a function from what was read with a batch's rows to targets."""
  if cache.method.entries:
    return lambda unused_batch, beside: types.Targets(beside, None)
  size = run.student.config.vocab_size
  table = cached.unembedding(cache, size, run.mesh)
  # As the teacher itself multiplies them.
  dtype = cache.manifest['request']['teachers'][0]['dtype']
  share = jnp.float32(1.0)

  def targets(batch, beside):
    del batch  # All is in what was read with it.
    dense = types.Dense(beside.astype(dtype), table, share)
    return types.Targets((dense,), None)

  return targets


def read_beside(
  rows: Callable[[int, np.ndarray], types.Batch], cache: cached.Cache | None
) -> Callable[[int, np.ndarray], tuple[types.Batch, Beside]]:
  """Rows with their targets, if there is a cache of them."""

  def read(step, numbers):
    batch = rows(step, numbers)
    return batch, cache and cache.read(batch)

  return read


def prompts_beside(
  rows: Callable[[int, np.ndarray], types.Batch],
  number_of: Callable[[int], int | None],
) -> Callable[[int, np.ndarray], tuple[types.Batch, types.Batch | None]]:
  """Rows with those whose prompts the student answers at the same step.

  Args:
    rows: the data's, by step.
    number_of: from a step to that of the rows with its prompts, or None.
  """

  def read(step, numbers):
    batch, number = rows(step, numbers), number_of(step)
    if number is None:
      return batch, None
    return batch, batch if number == step else rows(number, numbers)

  return read
