"""A queue that serves its clients in round-robin order."""

import collections
from collections.abc import Iterator
import itertools
from typing import Generic, TypeVar

Item = TypeVar('Item')


class FairQueue(Generic[Item]):
  """Queues items by client, in order of arrival, and serves them round-robin.

  A client with many requests thus delays each other client by one at a time.
  """

  def __init__(self):
    self._by_client: collections.OrderedDict[str, collections.deque[Item]] = (
      collections.OrderedDict()
    )

  def __len__(self) -> int:
    return sum(map(len, self._by_client.values()))

  def __iter__(self) -> Iterator[Item]:
    return itertools.chain.from_iterable(self._by_client.values())

  def count(self, client: str) -> int:
    """Returns the number of waiting items of a client."""
    return len(self._by_client.get(client, ()))

  def clients(self, client: str) -> int:
    """Returns the number of waiting clients, including this one."""
    return len(self._by_client.keys() | {client})

  def ahead(self, client: str) -> int:
    """Returns the number of items ahead of a new item of a client."""
    own = self.count(client)
    others = (x for name, x in self._by_client.items() if name != client)
    return own + sum(min(len(items), own + 1) for items in others)

  def put(self, client: str, item: Item) -> None:
    """Adds an item after the client's other items."""
    self._by_client.setdefault(client, collections.deque()).append(item)

  def get(self) -> Item:
    """Removes and returns the next item.

    Raises:
      KeyError: the queue is empty.
    """
    client, items = self._by_client.popitem(last=False)
    item = items.popleft()
    if items:
      self._by_client[client] = items
    return item

  def remove(self, client: str, item: Item) -> bool:
    """Removes an item; returns whether it was there."""
    items = self._by_client.get(client, ())
    if item not in items:
      return False
    items.remove(item)
    if not items:
      del self._by_client[client]
    return True
