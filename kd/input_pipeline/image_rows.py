"""Stores rows' images in records, and decodes them to pixels for batches."""

from collections.abc import Sequence
from concurrent import futures
import functools
import os

import numpy as np

from kd.core import types
from kd.images import form as form_lib
from kd.images import pictures
from kd.input_pipeline import image_tokens

_MOST_THREADS = 8

Slots = Sequence[image_tokens.Slot]


def to_bytes(fields: bytes, slots: Slots) -> bytes:
  """Serializes a row that may have images.

  Args:
    fields: the result of packing.to_bytes.
    slots: the row's images in order; repeated files are stored once.
  """
  files = list(dict.fromkeys(slot.data for slot in slots))
  numbers = {data: number for number, data in enumerate(files)}
  table = [x for slot in slots for x in (numbers[slot.data], slot.crop)]
  table += [len(data) for data in files]
  table += [len(slots), len(files)]
  return b''.join([fields, *files, np.array(table, '<i4').tobytes()])


def from_bytes(record: bytes) -> tuple[bytes, list[image_tokens.Slot]]:
  """Parses a record to the arguments of `to_bytes`."""
  count, files = np.frombuffer(record[-8:], '<i4')
  words = 2 * count + files
  end = len(record) - 4 * (words + 2)
  table = np.frombuffer(record[end:-8], '<i4')
  sizes = table[2 * count :]
  begin = end - int(sizes.sum())
  places = begin + np.cumsum([0, *sizes])
  read = [record[a:b] for a, b in zip(places[:-1], places[1:], strict=True)]
  pairs = table[: 2 * count].reshape(-1, 2).tolist()
  return record[:begin], [image_tokens.Slot(read[n], crop) for n, crop in pairs]


@functools.cache
def _threads() -> futures.ThreadPoolExecutor:
  count = min(_MOST_THREADS, os.cpu_count() or 1)
  return futures.ThreadPoolExecutor(count, thread_name_prefix='images')


def read(
  tokens: np.ndarray, rows: Sequence[Slots], form: form_lib.Form
) -> types.Images:
  """Decodes and resizes the images of rows on several threads.

  Args:
    tokens: int32 [B, L], with form.soft_id at the positions of images.
    rows: the images of each row.
    form: format of the model's images.

  Returns:
    The images, as numpy arrays.
  """
  side = form.size
  pixels = np.zeros((len(rows), form.per_row, side, side, 3), np.uint8)
  places: dict[image_tokens.Slot, list[tuple[int, int]]] = {}
  for i, slots in enumerate(rows):
    for j, slot in enumerate(slots):
      places.setdefault(slot, []).append((i, j))

  def decode(slot):
    image = pictures.pixels(slot.data, side, slot.crop)
    for place in places[slot]:
      pixels[place] = image

  list(_threads().map(decode, places))
  return types.Images(pixels, form.index(tokens))


def decoded(slots: Slots, side: int) -> np.ndarray:
  """Decodes and resizes images on several threads.

  Args:
    slots: the images.
    side: S, width and height in pixels.

  Returns:
    uint8 [n, S, S, 3].
  """
  decode = lambda slot: pictures.pixels(slot.data, side, slot.crop)
  return np.stack(list(_threads().map(decode, slots)))


def spread(counts: Sequence[int]) -> list[int]:
  """Returns an order of a batch's rows that balances images over devices.

  Images are spread evenly over blocks of neighboring rows, which devices hold,
  and over strided rows, which form micro-batches.

  Args:
    counts: number of images of each row, in the order of the data.
  """
  by_count = sorted(range(len(counts)), key=lambda i: -counts[i])
  bits = max((len(counts) - 1).bit_length(), 2)
  places = sorted(range(len(counts)), key=lambda i: _rank(i, bits))
  order = [0] * len(counts)
  for place, row in zip(places, by_count, strict=True):
    order[place] = row
  return order


def _rank(place: int, bits: int) -> int:
  """Returns the rank by which the places of a batch are filled.

  Reversed bits spread the first places evenly over blocks of neighbors. The bit
  parity as the highest bit also spreads them over odd and even places.
  """
  reversed_ = int(f'{place >> 1:0{bits - 1}b}'[::-1], 2)
  return reversed_ + ((place.bit_count() & 1) << (bits - 1))
