"""Compilations are counted, including cached ones."""

import jax
import numpy as np

from kd.core import compilations


def test_compiled_and_cached_programs_are_counted_separately(tmp_path):
  names = {
    'jax_compilation_cache_dir': str(tmp_path),
    'jax_persistent_cache_min_compile_time_secs': 0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  old = {name: getattr(jax.config, name) for name in names}
  x = np.arange(5.0)

  def compile_anew():
    before = compilations.total()
    jax.jit(lambda x: x * 1.25 + 3).lower(x).compile()
    return compilations.total() - before

  try:
    for name, value in names.items():
      jax.config.update(name, value)
    first, again = compile_anew(), compile_anew()
  finally:
    for name, value in old.items():
      jax.config.update(name, value)
  assert (first.programs, first.cached) == (1, 0)
  assert (again.programs, again.cached) == (1, 1)
  assert first.seconds > 0
