"""Caches compiled programs on disk, so that later starts skip compilation."""

import os
import platform

import jax
import jaxlib

from kd.core import compilations
from kd.core import identity
from kd.core import paths

_FOLDER = '~/.cache/kd/compiled'
_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def enable() -> None:
  """Caches compiled programs in ~/.cache/kd/compiled; call it before compiling.

  $JAX_COMPILATION_CACHE_DIR sets another folder; an empty value disables the
  cache.
  """
  compilations.total()  # Starts counting.
  if _VARIABLE in os.environ:
    return
  # Machines with different processors may share a home folder, and a program
  # may use instructions that another machine lacks.
  folder = identity.digest([jaxlib.__version__, _processor()])
  folder = os.path.join(paths.expand(_FOLDER), folder)
  jax.config.update('jax_compilation_cache_dir', folder)
  # Most programs of a small run compile in less than a second each.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def _processor() -> list[str]:
  """Returns the machine type and, on Linux, the processor's instructions."""
  lines = []
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as f:
      lines = sorted({x for x in f if x.startswith(('flags', 'Features'))})
  return [platform.machine(), *lines]
