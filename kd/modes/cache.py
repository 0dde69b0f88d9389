"""Computes the teacher's targets once, for runs that train from them."""

import ml_collections

from kd.train import cache
from kd.train import describe
from kd.train import resolve
from kd.train import session
from kd.train.feeds import feed


def main(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes a cache, or reports on the one that is there; see docs/cache.md.

  Raises:
    ConfigError: the cache belongs to another run or is damaged.
    NonFiniteError: the teacher's logits are not finite.
  """
  writer = feed.source(config).computed_by
  if writer:
    # The config of a run that reads the cache also says how it is made.
    config = config.copy_and_resolve_references()
    config.teacher.source = writer
  run = resolve.resolve(config, session.devices(config))
  for line in describe.template_warnings(run, describe.models(run)):
    session.say(line)
  cache.cache(run, workdir, session.say)
