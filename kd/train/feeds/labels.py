"""Batches with their labels alone: no teacher."""

from kd.train.feeds import feed


class Source(feed.Source):
  """Labels alone."""


class Feed(feed.Feed):
  """Batches without targets."""
