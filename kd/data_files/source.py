"""Reads examples from data files and holds some out for validation."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import hashlib
import os
from typing import Any

from kd.core import errors
from kd.data_files import column_rows
from kd.data_files import examples
from kd.data_files import json_rows
from kd.data_files import locations
from kd.images import loading
from kd.models import chat_turns

TRAIN, VALIDATION = 'train', 'validation'
# Smaller sources are read an extra time to hold out exactly the given fraction.
_SMALL = 16 << 20  # bytes

# Maps a row, and its location for messages, to extra fields of its example.
Added = Callable[[Mapping[str, Any], str], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Source:
  """A source of examples in data files.

  Attributes:
    location: a file, a pattern or a folder.
    columns: names of the files' columns.
    held_out: fraction of the prompts, or their number if at least 1, that are
      in the split `validation` and not in `train`. If 0, both contain all
      examples. If a folder has its own split `validation`, nothing else is held
      out. A folder's other splits are complete.
    field: config field that contains the location, for messages.
    urls: whether images that rows name by URL are downloaded.
    recorded: column whose text is stored in examples as `field`; '' for none.
  """

  location: str
  columns: examples.Columns = examples.Columns()
  held_out: float = 0.0
  field: str = 'data.mixture'
  urls: bool = False
  recorded: str = ''

  @property
  def identity(self) -> dict[str, Any]:
    """Returns the settings that determine the examples, besides the files."""
    columns = dataclasses.asdict(self.columns)
    if self.columns.images == examples.Columns.images:
      del columns['images']  # Earlier versions had no such column.
    request = {
      # Absolute, since relative locations depend on the working directory.
      'patterns': list(locations.patterns(self.location)),
      'columns': columns,
      'held_out': self.held_out,
    }
    return request | {'urls': True} if self.urls else request

  def splits(self) -> tuple[str, ...]:
    """Returns the names of the splits."""
    own = locations.splits(self.location)
    return tuple(dict.fromkeys([*(own or (TRAIN,)), VALIDATION]))

  def read(
    self,
    split: str,
    bad: json_rows.Bad,
    opened: loading.Opened = lambda name, data: None,
    added: Added | None = None,
  ) -> Iterator[examples.Example]:
    """Yields the checked examples of a split, in the order of the files.

    Args:
      split: one of `splits`.
      bad: called with the error of each invalid example, which names the file,
        line and field.
      opened: called with each image that a row names, see loading.Loader.
      added: returns additional fields of an example, see Added.

    Raises:
      ConfigError: there are no such files, or one is damaged.
    """
    own = locations.splits(self.location)
    is_divided = self.held_out and VALIDATION not in own
    if not is_divided or (split in own and split != TRAIN):
      if own and split not in own:
        split = TRAIN
      rows = self._rows(split if own else '', bad, opened, added=added)
    else:
      highest = self._highest_held_out(TRAIN if own else '')
      is_chosen = lambda x: (place(x) <= highest) == (split == VALIDATION)
      of_split = TRAIN if own else ''
      rows = self._rows(of_split, bad, opened, is_chosen, added)
    for _, example in rows:
      yield example

  def places(self, split: str) -> list[float]:
    """Returns the distinct `place` values of the prompts, in ascending order.

    They do not depend on whether images can be downloaded.

    Args:
      split: a split that the folder declares; '' for all files.
    """
    rows = self._rows(split, bad=lambda error: None)
    return sorted({place(example) for _, example in rows})

  def column(self, split: str, name: str) -> dict[str, Any]:
    """Returns the values of a column by example id.

    Args:
      split: one of `splits`.
      name: name of the column; rows without it are left out.
    """
    own = locations.splits(self.location)
    chosen = split if split in own else TRAIN
    rows = self._rows(chosen if own else '', bad=lambda error: None)
    return {x['id']: row[name] for row, x in rows if name in row}

  def _rows(
    self,
    split: str,
    bad: json_rows.Bad,
    opened: loading.Opened | None = None,
    is_chosen: Callable[[examples.Example], bool] = lambda example: True,
    added: Added | None = None,
  ) -> Iterator[tuple[Mapping[str, Any], examples.Example]]:
    """Yields each row with its example.

    Args:
      split: a split that the folder declares; '' for all files.
      bad: called with errors.
      opened: see `read`. None: nothing is downloaded, URLs replace images.
      is_chosen: returns whether to yield an example, in which URLs replace
        images.
      added: see `read`.
    """
    for path in locations.files(self.location, self.field, split):
      folder, urls = os.path.dirname(os.path.abspath(path)), []
      noted = opened or (lambda name, data: None)
      loader = loading.Loader(folder, self.urls, noted)
      by_name = dataclasses.replace(loader, deferred=urls.append)
      for where, row in read_file(path, bad):
        number = where.rpartition(' ')[2].rpartition(':')[2]
        default_id = f'{os.path.basename(path)}:{number}'
        read = functools.partial(
          examples.example, row, where, self.columns, default_id
        )
        urls.clear()
        try:
          example = read(by_name)
          if not is_chosen(example):
            continue
          if urls and opened is not None:
            example = read(loader)
          if added is not None:
            example |= added(row, where)
        except errors.ConfigError as e:
          bad(e)
          continue
        if self.recorded:
          value = row.get(self.recorded)
          example['field'] = '' if value is None else str(value)
        yield row, example

  def _highest_held_out(self, split: str) -> float:
    """Returns the highest `place` of the held-out prompts."""
    files = locations.files(self.location, self.field, split)
    state = tuple(
      (f, os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files
    )
    if self.held_out < 1 and sum(size for _, size, _ in state) > _SMALL:
      return self.held_out
    return _nth_place(self, split, state)


@functools.lru_cache(maxsize=64)
def _nth_place(source: Source, split: str, state: tuple) -> float:
  """Returns the highest `place` of the held-out prompts, exactly."""
  del state  # Only part of the cache key: the files may change.
  places = source.places(split)
  count = int(source.held_out)
  if source.held_out < 1:
    count = max(1, round(source.held_out * len(places)))
  if count >= len(places):
    raise errors.ConfigError(
      'data.held_out',
      f'found {source.held_out:g}, and {source.location} has {len(places)} '
      'prompts that differ: none is left to train on',
      legal='fewer, or evaluation.sets with a mixture of their own',
    )
  return places[count - 1]


def prompt_key(example: examples.Example) -> str:
  """Returns the beginning of an example's prompt, which determines its split.

  Chats that begin with the same question are in the same split. The question
  includes its images, or their URLs where they have one. For a text, the key is
  the text itself.
  """
  if 'text' in example:
    return example['text'].strip()
  if 'inputs' in example:
    return example['inputs'].strip() or example['targets'].strip()
  asked = next(m for m in example['messages'] if m['role'] == 'user')
  return '\0'.join([asked['content'].strip(), *chat_turns.images(asked)])


def place(example: examples.Example) -> float:
  """Returns a hash of the prompt as a number from 0 to 1."""
  digest = hashlib.sha256(prompt_key(example).encode('utf-8')).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def read_file(path: str, bad: json_rows.Bad) -> Iterator[json_rows.Row]:
  """Yields the location of each row of a file, for messages, and the row."""
  kind = locations.kind(path)
  if kind == locations.PARQUET:
    return column_rows.read_parquet(path, bad)
  if kind == locations.ARROW:
    return column_rows.read_arrow(path, bad)
  return json_rows.read(path, bad)
