"""Batches with their labels alone: no teacher."""

from kd.train.feeds import feed


class Source(feed.Source):
  """Labels alone: everything is as in the base class."""
