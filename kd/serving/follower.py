"""Follows a registry: versions are loaded and switched while others answer."""

from collections.abc import Callable
import dataclasses
import threading
import time
from typing import Any

from kd.core import buckets
from kd.core import errors
from kd.partitioning import rules
from kd.serving import alarm_bell
from kd.serving import drift as drift_lib
from kd.serving import health as health_lib
from kd.serving import metrics as metrics_lib
from kd.serving import probe
from kd.serving import releases
from kd.serving import scheduler as scheduler_lib
from kd.serving import served_model
from kd.versions import changes
from kd.versions import state as state_lib

# How long a request may take from the choice of its version to the queue.
_LEAVES_AFTER_S = 30.0
_WATCH_S = 1.0
# Until a version that could not be loaded is tried again: at first, at most.
_AGAIN_S, _LATEST_S = 60.0, 3600.0

# Loads a version or another model; the arguments are its name and place.
Load = Callable[[str, str], served_model.ServedModel]


class Follower:
  """Keeps a router's stages as the registry has them."""

  def __init__(
    self,
    registry: str,
    name: str,
    config: Any,
    load: Load,
    bell: alarm_bell.AlarmBell,
    metrics: metrics_lib.Metrics,
  ):
    """Loads the version in production.

    Args:
      registry: its folder.
      name: what requests call the model.
      config: the whole config: its `follow` and `alarms`.
      load: loads a model.
      bell: raises alarms.
      metrics: that are told.

    Raises:
      ConfigError: no version is in production, it or the teacher can't be
        loaded, or they have different tokenizers.
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
    self.drift = self._compared_with(release.model)
    # By version; the other model that is the fallback has ''.
    self._releases = {release.version: release}
    self._seen: state_lib.State | None = None  # When a version has failed.
    # By version: when it is tried again, and how long that is.
    self._failed: dict[str, tuple[float, float]] = {}
    self._unused: dict[str, float] = {}
    self._probed_at = 0.0
    self.router = releases.ReleaseRouter(
      name, releases.Stages(release), config.follow.canary_share
    )
    self._tell(self.router.stages)
    self._ended = threading.Event()
    # Requests are watched while a version is loaded, which may take minutes.
    self._threads = [
      threading.Thread(target=self._run, args=run, daemon=True)
      for run in ((self._update, config.follow.poll_s), (self._watch, _WATCH_S))
    ]

  @property
  def models(self) -> list[served_model.ServedModel]:
    """Returns the models that are loaded."""
    models = [release.model for release in self._releases.values()]
    return [*models, self.drift.teacher] if self.drift else models

  def _compared_with(self, student) -> drift_lib.Drift | None:
    """Loads the teacher with which answers are compared, if there is one."""
    c = self._config
    if not c.follow.teacher:
      return None
    teacher = self._load(f'{self._name}@teacher', c.follow.teacher)
    if teacher.tokenizer.digest != student.tokenizer.digest:
      raise errors.ConfigError(
        'follow.teacher',
        f'found {c.follow.teacher!r}, whose tokenizer is not that of the model',
        legal='a model with the same tokenizer',
      )
    timeout_s = c.serve.timeout_ms / 1000
    return drift_lib.Drift(
      teacher, c.follow.compared_share, timeout_s, self._metrics
    )

  def start(self, scheduler: scheduler_lib.Scheduler) -> None:
    """Follows the registry from now on, in threads."""
    self._scheduler = scheduler
    for thread in self._threads:
      thread.start()

  def close(self) -> None:
    """Ends the threads, once they have compiled what they are compiling."""
    self._ended.set()

  def join(self, timeout_s: float) -> None:
    """Waits until the threads have ended, after `close`."""
    for thread in self._threads:
      thread.join(timeout_s)

  def _run(self, call, every_s) -> None:
    told = ''
    while not self._ended.wait(every_s):
      if self._scheduler.state != scheduler_lib.READY:
        continue
      try:
        call()
        told = ''
      except Exception as e:  # The thread must go on.
        # Once, however often it comes again.
        if _text(e) != told:
          told = _text(e)
          self._bell.ring('registry', f'the registry is not followed: {told}')

  def _update(self) -> None:
    """Brings the stages to what the registry says."""
    buckets.refresh(self._registry)
    state = changes.read(self._registry)
    if state != self._seen:
      self._seen, self._failed = state, {}
    before = self.router.stages
    production = self._release(state, state.production) or before.production
    # At once: others may take minutes to load.
    self._switch(dataclasses.replace(before, production=production))
    canary = self._release(state, state.canary)
    self._switch(dataclasses.replace(self.router.stages, canary=canary))
    fallback = self._fallback(state, production, before)
    self._switch(releases.Stages(production, canary, fallback))
    self._retire(self.router.stages)

  def _switch(self, stages) -> None:
    before, self.router.stages = self.router.stages, stages
    self._tell(stages)
    if stages.production is not before.production:
      self._bell.say(
        f'{self._name}: {stages.production.version} answers, in place of '
        f'{before.production.version}'
      )

  def _tell(self, stages) -> None:
    releases_ = stages.by_name().items()
    self._metrics.versions({stage: x.version for stage, x in releases_})

  def _fallback(self, state, production, before):
    """Returns the release that answers while production is out."""
    if self._config.follow.fallback:
      return self._release(state, '')
    release = self._release(state, state.fallback)
    # A version that can't be loaded leaves the running one in its place.
    return before.fallback if release is production else release

  def _release(self, state, version):
    """Returns a version, loaded; None without one, or if it can't be."""
    if version is None:
      return None
    if version not in self._releases:
      again, wait_s = self._failed.get(version, (0.0, 0.0))
      if time.monotonic() < again:
        return None
      try:
        release = self._loaded(state, version)
        self._warm_up(release)
      except Exception as e:  # Such as too little memory.
        if self._ended.is_set():
          return None
        next_s = min(2 * wait_s or _AGAIN_S, _LATEST_S)
        self._failed[version] = time.monotonic() + next_s, next_s
        what = version or self._config.follow.fallback
        text = f'{what} is not switched to: {_text(e)}'
        if wait_s:  # The alarm was raised before.
          self._bell.say(text)
        else:
          self._bell.ring('version', text, version=version)
        return None
      self._failed.pop(version, None)
      self._releases[version] = release
    return self._releases[version]

  def _loaded(self, state, version) -> releases.Release:
    """Loads a version, if its files are those that were added."""
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
    """Compiles programs and asks a question, before any request comes."""
    model = release.model
    with rules.active(model.run.mesh):
      for _ in model.batch.compile():
        if self._ended.is_set():
          raise errors.KdError('the server stops')
    self._scheduler.add(model)
    fault, _ = self._ask(release)
    if fault:
      # A probe that came too late leaves at the end of its slice.
      while not self._scheduler.remove(model) and not self._ended.wait(0.1):
        pass
      raise errors.KdError(f'a probe failed: {fault}')

  def _ask(self, release):
    timeout_s = self._config.serve.timeout_ms / 1000
    return probe.ask(self._scheduler, release.model, timeout_s)

  def _retire(self, stages) -> None:
    """Frees the memory of versions that have no stage any more."""
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
    """Takes versions out that are not well; probes those that are out."""
    for stage, release in self.router.stages.by_name().items():
      fault = '' if release.out else release.health.fault()
      if fault:
        release.out = fault
        release.passed = 0
        to = self._instead(stage)
        self._bell.ring(
          'version',
          f'{release.model.name} ({stage}) is taken out: {fault}; requests go '
          f'to {to}',
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

  def _instead(self, stage) -> str:
    """Returns what answers instead of a release, for a message."""
    stages = self.router.stages
    if stage != 'production':
      return stages.production.model.name
    if not stages.fallback or stages.fallback.out:
      return 'the same version: there is no fallback'
    return stages.fallback.model.name

  def _probe(self, release) -> None:
    """Brings a version back after some good answers in a row."""
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


def _text(error: Exception) -> str:
  """Returns an error's message, with its type unless people know it."""
  if isinstance(error, errors.KdError | OSError):
    return str(error)
  return f'{type(error).__name__}: {error}'
