"""Counts the programs that this process compiles, from JAX's events."""

import dataclasses
import functools
import threading

import jax

_COMPILED = '/jax/core/compile/backend_compile_duration'
_CACHED = '/jax/compilation_cache/cache_hits'


@dataclasses.dataclass(frozen=True)
class Compilations:
  """Programs compiled so far.

  Attributes:
    seconds: time spent compiling or reading compiled programs from the cache.
    programs: number of programs, including cached ones.
    cached: number of programs read from the compilation cache.
  """

  seconds: float = 0.0
  programs: int = 0
  cached: int = 0

  def __sub__(self, earlier: 'Compilations') -> 'Compilations':
    return Compilations(
      self.seconds - earlier.seconds,
      self.programs - earlier.programs,
      self.cached - earlier.cached,
    )


class _Counter:
  """Listens to JAX's events; several threads may compile."""

  def __init__(self):
    self._lock, self.total = threading.Lock(), Compilations()
    jax.monitoring.register_event_duration_secs_listener(self._duration)
    jax.monitoring.register_event_listener(self._event)

  def _duration(self, event, seconds, **unused):  # noqa: ARG002
    if event == _COMPILED:
      self._add(seconds, 1, 0)

  def _event(self, event, **unused):  # noqa: ARG002
    if event == _CACHED:
      self._add(0.0, 0, 1)

  def _add(self, seconds, programs, cached):
    with self._lock:
      before = self.total
      self.total = Compilations(
        before.seconds + seconds,
        before.programs + programs,
        before.cached + cached,
      )


@functools.cache
def _counter():
  return _Counter()


def total() -> Compilations:
  """Returns the compilations since the first call of this function."""
  return _counter().total
