"""Batches with their labels alone: no teacher."""

from kd.run import source
from kd.train.feeds import feed


@source.SOURCES.register('none')
class Source(source.Source):
  """Labels alone."""

  def feed(self, run, rows, digest, opened, live_targets):
    del opened, live_targets
    return feed.Feed(run, rows, digest)
