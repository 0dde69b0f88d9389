"""Routes requests between the versions of a model."""

from collections.abc import Mapping
import dataclasses
import itertools

from kd.serving import health as health_lib
from kd.serving import router
from kd.serving import served_model


@dataclasses.dataclass(eq=False)
class Release:
  """A loaded version.

  Attributes:
    version: name in the registry; '' for a model that is not in it.
    model: the model.
    health: health of its requests.
    out: why it gets no requests; '' if it may get some.
    passed: number of probes passed in a row since it was taken out of service.
  """

  version: str
  model: served_model.ServedModel
  health: health_lib.Health
  out: str = ''
  passed: int = 0


@dataclasses.dataclass(frozen=True)
class Stages:
  """The releases by stage.

  Attributes:
    production: release that gets the requests.
    canary: release that gets a fraction of the requests.
    fallback: release that gets the requests while production is out.
  """

  production: Release
  canary: Release | None = None
  fallback: Release | None = None

  def by_name(self) -> dict[str, Release]:
    """Returns the releases by the names of their stages."""
    releases = {name: getattr(self, name) for name in _STAGES}
    return {name: x for name, x in releases.items() if x is not None}


_STAGES = ('production', 'canary', 'fallback')


class ReleaseRouter(router.Router):
  """Routes the requests of one model name to versions of a registry.

  Attributes:
    stages: the stages; replaced as a whole, and read once per request.
  """

  def __init__(self, name: str, stages: Stages, canary_share: float):
    """Initializes the router.

    Args:
      name: name of the model, for all of its versions.
      stages: the initial stages.
      canary_share: fraction of requests for a canary, from 0 to 1.
    """
    super().__init__(())
    self._name, self.stages = name, stages
    self._share, self._count = canary_share, itertools.count(1)

  def listed(self) -> Mapping[str, served_model.ServedModel]:
    releases = self.stages.by_name().values()
    models = {x.model.name: x.model for x in releases}
    return {self._name: self.stages.production.model, **models}

  def pick(self, name: str | None) -> served_model.ServedModel:
    if name in (None, self._name):
      return self._release().model
    listed = self.listed()
    if name in listed:
      return listed[name]
    raise served_model.unknown(name, list(listed))

  def _release(self) -> Release:
    stages, share = self.stages, self._share
    if stages.canary and not stages.canary.out:
      # Spreads the canary's requests evenly for any fraction.
      number = next(self._count)
      if int(number * share) > int((number - 1) * share):
        return stages.canary
    for release in (stages.production, stages.fallback):
      if release and not release.out:
        return release
    # No release is healthy.
    return stages.production

  def note(self, model, code, first_s, fault=''):
    for release in self.stages.by_name().values():
      if release.model is model:
        release.health.note(code, first_s, fault)
        return
