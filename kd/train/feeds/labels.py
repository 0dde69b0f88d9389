"""Supplies batches without targets of a teacher."""

from kd.run import source
from kd.train.feeds import feed


@source.SOURCES.register('none')
class Source(source.Source):
  """The source without a teacher."""

  def feed(self, run, rows, digest, opened, live_targets):
    del opened, live_targets
    return feed.Feed(run, rows, digest)
