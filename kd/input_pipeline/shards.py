"""Shards: consecutive examples of a task, the unit of preparing rows.

Where a shard ends depends on the examples alone, so that rows do too, whoever
prepares them.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import functools
import hashlib
import json
from typing import Any

Images = dict[str, tuple[int, str]]

CHARACTERS = 16 << 20  # A shard ends with the example that reaches them.


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive examples of a task.

  Attributes:
    task: the task's name.
    number: from 0.
    data: the examples, as JSON.
    images: by path or URL of each image that was read for it, the file's bytes
      and SHA-256 (hex).
  """

  task: str
  number: int
  data: bytes
  images: Images = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """What the names of its files begin with."""
    return name(self.task, self.number)

  @functools.cached_property
  def digest(self) -> str:
    """The SHA-256 (hex) of the examples."""
    return hashlib.sha256(self.data).hexdigest()

  def examples(self) -> list[dict[str, Any]]:
    """Returns the examples."""
    return json.loads(self.data)


def name(task: str, number: int) -> str:
  """Returns what the names of a shard's files begin with."""
  return f'{task}-{number:05d}'


def divide(
  task: str, examples: Iterable[Mapping[str, Any]], images: Images
) -> Iterator[Shard]:
  """Yields the shards of a task.

  Args:
    task: its name.
    examples: as examples.stream yields them; one shard of them is in memory.
    images: filled while examples are read, see Shard; emptied by each shard.
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
  """Returns the length of all texts in an example."""
  if isinstance(value, str):
    return len(value)
  if isinstance(value, Mapping):
    return sum(map(_characters, value.values()))
  if isinstance(value, list | tuple):
    return sum(map(_characters, value))
  return 0


def _json(example: Mapping[str, Any]) -> bytes:
  text = json.dumps(example, ensure_ascii=False)
  # Half of a surrogate pair is refused where its text is encoded.
  return text.encode('utf-8', 'surrogatepass')


def _shard(
  task: str, number: int, examples: list[bytes], images: Images
) -> Shard:
  # As JSON, examples take a fraction of the memory that their objects take.
  data, read = b'[' + b', '.join(examples) + b']', dict(images)
  images.clear()
  return Shard(task, number, data, read)
