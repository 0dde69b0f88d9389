"""Divides examples into shards, the units in which rows are prepared.

The boundaries of shards only depend on the examples. So the rows do not depend
on which processes prepare them.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import functools
import hashlib
import json
from typing import Any

Images = dict[str, tuple[int, str]]

CHARACTERS = 16 << 20  # A shard ends with the example that reaches this size.


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive examples of a task.

  Attributes:
    task: name of the task.
    number: index of the shard, from 0.
    data: the examples, a line of JSON each, without the last line's end.
    images: (size in bytes, SHA-256 in hex) of the image files that were read
      for the shard, by path or URL.
  """

  task: str
  number: int
  data: bytes
  images: Images = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """Common prefix of the names of the shard's files."""
    return name(self.task, self.number)

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 (hex) of the examples."""
    return hashlib.sha256(self.data).hexdigest()

  def lines(self) -> list[bytes]:
    """Returns the JSON of each example."""
    return self.data.split(b'\n')

  def examples(self) -> list[dict[str, Any]]:
    """Returns the examples."""
    return json.loads(b'[%s]' % self.data.replace(b'\n', b','))


def name(task: str, number: int) -> str:
  """Returns the common prefix of the names of a shard's files."""
  return f'{task}-{number:05d}'


def divide(
  task: str, examples: Iterable[Mapping[str, Any]], images: Images
) -> Iterator[Shard]:
  """Yields the shards of a task.

  Args:
    task: name of the task.
    examples: examples of examples.stream; only one shard is held in memory.
    images: images read for the current shard, see Shard; cleared after each.
  """
  number, held, characters = 0, [], 0
  for example in examples:
    held.append(_json(example))
    characters += _characters(example)
    if characters >= CHARACTERS:
      yield _shard(task, number, held, images)
      number, held, characters = number + 1, [], 0
  if held:
    yield _shard(task, number, held, images)


def _characters(value: Any) -> int:
  """Returns the total length of all texts in an example."""
  if isinstance(value, str):
    return len(value)
  if isinstance(value, Mapping):
    return sum(map(_characters, value.values()))
  if isinstance(value, list | tuple):
    return sum(map(_characters, value))
  return 0


def _json(example: Mapping[str, Any]) -> bytes:
  text = json.dumps(example, ensure_ascii=False, allow_nan=False)
  # Lone surrogates are rejected later, when the text is tokenized.
  return text.encode('utf-8', 'surrogatepass')


def _shard(
  task: str, number: int, examples: list[bytes], images: Images
) -> Shard:
  # JSON takes a fraction of the memory of Python objects.
  data, read = b'\n'.join(examples), dict(images)
  images.clear()
  return Shard(task, number, data, read)
