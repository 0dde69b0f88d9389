"""Follows a registry: loads and switches versions while others answer."""

import dataclasses
import threading
import time
from typing import Any

from kd.core import buckets
from kd.core import errors
from kd.partitioning import rules
from kd.serving import alarm_bell
from kd.serving import health as health_lib
from kd.serving import metrics as metrics_lib
from kd.serving import periodic
from kd.serving import probe
from kd.serving import releases
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.versions import changes
from kd.versions import state as state_lib

# Maximum time of a request from the choice of its version to the queue.
_LEAVES_AFTER_S = 30.0
_WATCH_S = 1.0
# Initial and maximum time until loading a failed version is retried.
_FIRST_RETRY_S, _MAX_RETRY_S = 60.0, 3600.0


class Follower:
  """Updates the stages of a router to those in a registry."""

  def __init__(
    self,
    registry: str,
    name: str,
    config: Any,
    load: served_model.Load,
    bell: alarm_bell.AlarmBell,
    metrics: metrics_lib.Metrics,
  ):
    """Loads the version in production.

    Args:
      registry: folder of the registry.
      name: name of the model in requests.
      config: the config, with sections `follow`, `alarms` and `serve`.
      load: loads a model.
      bell: raises alarms.
      metrics: metrics to update.

    Raises:
      ConfigError: no version is in production, or it cannot be loaded.
    """
    self._registry, self._name, self._bell = registry, name, bell
    self._config, self._load, self._metrics = config, load, metrics
    self._scheduler: scheduler_lib.Scheduler | None = None
    state = changes.read(registry)
    if state.production is None:
      raise errors.ConfigError(
        'command line',
        f'no version is in production in {buckets.shown(registry)!r}',
        legal='kd registry promote VERSION production',
      )
    release = self._loaded(state, state.production)
    # By version; '' is a fallback that is not a version of the registry.
    self._releases = {release.version: release}
    # The last state; if it changes, failed versions are retried at once.
    self._seen: state_lib.State | None = None
    # Time of the next retry and current delay in seconds, by version.
    self._failed: dict[str, tuple[float, float]] = {}
    self._unused: dict[str, float] = {}
    self._probed_at = 0.0
    self.router = releases.ReleaseRouter(
      name, releases.Stages(release), config.follow.canary_share
    )
    self._export_versions(self.router.stages)
    self._ended = threading.Event()
    # Two threads, since loading a version may take minutes.
    self._threads = [
      self._thread(self._update, config.follow.poll_s),
      self._thread(self._watch, _WATCH_S),
    ]

  @property
  def models(self) -> list[served_model.ServedModel]:
    """Returns the loaded models."""
    return [release.model for release in self._releases.values()]

  def start(self, scheduler: scheduler_lib.Scheduler) -> None:
    """Starts to follow the registry, in threads."""
    self._scheduler = scheduler
    for thread in self._threads:
      thread.start()

  def close(self) -> None:
    """Ends the threads after their current compilation."""
    self._ended.set()

  def join(self, timeout_s: float) -> None:
    """Waits until the threads have ended, after `close`."""
    for thread in self._threads:
      thread.join(timeout_s)

  def _thread(self, call, every_s) -> threading.Thread:
    def run():
      if self._scheduler.state == scheduler_lib.READY:
        call()

    task = 'follow the registry'
    return periodic.thread(
      run, every_s, self._ended, self._bell, 'registry', task
    )

  def _update(self) -> None:
    """Updates the stages to those in the registry."""
    buckets.refresh(self._registry)
    state = changes.read(self._registry)
    if state != self._seen:
      self._seen, self._failed = state, {}
    before = self.router.stages
    production = self._release(state, state.production) or before.production
    # Before loading the other stages, which may take minutes.
    self._switch(dataclasses.replace(before, production=production))
    canary = self._release(state, state.canary)
    self._switch(dataclasses.replace(self.router.stages, canary=canary))
    fallback = self._fallback(state, production, before)
    self._switch(releases.Stages(production, canary, fallback))
    self._retire(self.router.stages)

  def _switch(self, stages) -> None:
    before, self.router.stages = self.router.stages, stages
    self._export_versions(stages)
    if stages.production is not before.production:
      self._bell.say(
        f'{self._name}: switched from {before.production.version} to '
        f'{stages.production.version}'
      )

  def _export_versions(self, stages) -> None:
    releases_ = stages.by_name().items()
    self._metrics.versions({stage: x.version for stage, x in releases_})

  def _fallback(self, state, production, before):
    """Returns the release that answers while production is out."""
    if self._config.follow.fallback:
      return self._release(state, '')
    release = self._release(state, state.fallback)
    # If production could not be loaded, the running version may be the
    # fallback; the previous fallback then stays.
    return before.fallback if release is production else release

  def _release(self, state, version):
    """Returns the loaded version; None without one or if loading fails."""
    if version is None:
      return None
    if version not in self._releases:
      again, wait_s = self._failed.get(version, (0.0, 0.0))
      if time.monotonic() < again:
        return None
      try:
        release = self._loaded(state, version)
        self._warm_up(release)
      except Exception as e:  # Such as out of memory.
        if self._ended.is_set():
          return None
        next_s = min(2 * wait_s or _FIRST_RETRY_S, _MAX_RETRY_S)
        self._failed[version] = time.monotonic() + next_s, next_s
        what = version or self._config.follow.fallback
        text = f'cannot switch to {what}: {periodic.text(e)}'
        if wait_s:  # The alarm has already been raised.
          self._bell.say(text)
        else:
          self._bell.ring('version', text, version=version)
        return None
      self._failed.pop(version, None)
      self._releases[version] = release
    return self._releases[version]

  def _loaded(self, state, version) -> releases.Release:
    """Loads a version after checking that its files are unchanged."""
    c, name, place = self._config, self._name, self._config.follow.fallback
    if version:
      entry = state.versions[version]
      problems = changes.problems(self._registry, entry)
      if problems:
        raise errors.ConfigError(version, errors.first_of(problems))
      name, place = f'{name}@{version}', entry.init(self._registry)
    else:
      name = f'{name}@fallback'
    limits = health_lib.Limits(
      c.alarms.p95_ms / 1000,
      c.alarms.error_rate,
      c.alarms.window_s,
      c.follow.fewest,
    )
    model = self._load(name, place)
    return releases.Release(version, model, health_lib.Health(limits))

  def _warm_up(self, release) -> None:
    """Compiles the programs and sends a probe, before any request."""
    model = release.model
    with rules.active(model.run.mesh):
      for _ in model.batch.compile():
        if self._ended.is_set():
          raise errors.KdError('the server stops')
    self._scheduler.add(model)
    fault, _ = self._ask(release)
    if fault:
      # A probe that timed out leaves at the end of its slice.
      while not self._scheduler.remove(model) and not self._ended.wait(0.1):
        pass
      raise errors.KdError(f'a probe failed: {fault}')

  def _ask(self, release):
    timeout_s = self._config.serve.timeout_ms / 1000
    return probe.ask(self._scheduler, release.model, timeout_s)

  def _retire(self, stages) -> None:
    """Frees the memory of versions that no longer have a stage."""
    used, now = {*stages.by_name().values()}, time.monotonic()
    for version, release in list(self._releases.items()):
      if release in used:
        self._unused.pop(version, None)
        continue
      since = self._unused.setdefault(version, now)
      is_left = now - since > _LEAVES_AFTER_S
      if is_left and self._scheduler.remove(release.model):
        del self._releases[version], self._unused[version]

  def _watch(self) -> None:
    """Takes unhealthy versions out of service; probes those that are out."""
    for stage, release in self.router.stages.by_name().items():
      fault = '' if release.out else release.health.fault()
      if fault:
        release.out = fault
        release.passed = 0
        to = self._replacement_name(stage)
        self._bell.ring(
          'version',
          f'{release.model.name} ({stage}) is out of service: {fault}; '
          f'requests now go to {to}',
          version=release.version,
          stage=stage,
          reason=fault,
        )
    now = time.monotonic()
    if now - self._probed_at < self._config.follow.probe_s:
      return
    self._probed_at = now
    for release in self.router.stages.by_name().values():
      if release.out:
        self._probe(release)

  def _replacement_name(self, stage) -> str:
    """Returns the name of the model that answers instead, for a message."""
    stages = self.router.stages
    if stage != 'production':
      return stages.production.model.name
    if not stages.fallback or stages.fallback.out:
      return 'the same version (no fallback)'
    return stages.fallback.model.name

  def _probe(self, release) -> None:
    """Probes a version; restores it after several good answers in a row."""
    fault, first_s = self._ask(release)
    if not fault and first_s > self._config.alarms.p95_ms / 1000:
      fault = f'its first token came after {first_s:.3f} s'
    release.passed = 0 if fault else release.passed + 1
    if release.passed >= self._config.follow.probes:
      release.health.clear()
      release.out = ''
      self._bell.ring(
        'recovered',
        f'{release.model.name} has recovered: {release.passed} probes in a row '
        'passed',
        version=release.version,
      )
