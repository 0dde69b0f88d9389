"""Samples on all processes of a run; process 0 sends its requests to the rest.

If parameters are split over processes, all of them must run the same programs.
Only process 0 reads prompts and writes answers. The other processes compute the
same answers and drop them.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd.partitioning import processes
from kd.sampling import images as images_lib
from kd.sampling import requests

# Maps requests and settings to answers, all at once or one by one.
Sample = Callable[
  [Sequence[requests.Request], requests.SamplingSettings], Iterable[Any]
]


@contextlib.contextmanager
def shared(sample: Sample) -> Iterator[Sample | None]:
  """Makes a sampler that only process 0 calls.

  Args:
    sample: answers requests; all processes must call it in the same order.

  Yields:
    The sampler on process 0. None on other processes, after they have answered
    all requests that process 0 makes within the block.
  """
  if jax.process_index():
    while data := _from_first(b''):
      for _ in sample(*_decode(data)):
        pass
    yield None
    return

  def ask(asked, settings):
    _from_first(_encode(asked, settings))
    return sample(asked, settings)

  yield ask
  _from_first(b'')


def _from_first(data: bytes) -> bytes:
  """Returns the bytes that process 0 passes; b'' ends the loop elsewhere."""
  if jax.process_count() == 1:
    return data
  # Other processes wait here while process 0 reads and writes.
  size = processes.from_first(lambda: len(data))
  if not size:
    return b''
  array = np.zeros(size, np.uint8)
  if jax.process_index() == 0:
    array = np.frombuffer(data, np.uint8)
  return multihost_utils.broadcast_one_to_all(array).astype(np.uint8).tobytes()


def _encode(
  asked: Sequence[requests.Request], settings: requests.SamplingSettings
) -> bytes:
  """Returns requests as JSON.

  Raises:
    TypeError: images are pixels, not files.
  """
  if any(not isinstance(x.data, bytes) for r in asked for x in r.images):
    raise TypeError('only images that are files are sent to other processes')
  rows = [
    [
      *([int(i) for i in r.ids], r.seed, r.samples, r.max_new_tokens),
      [[x.start, base64.b64encode(x.data).decode(), x.crop] for x in r.images],
    ]
    for r in asked
  ]
  return json.dumps([rows, dataclasses.asdict(settings)]).encode()


def _decode(
  data: bytes,
) -> tuple[list[requests.Request], requests.SamplingSettings]:
  rows, fields = json.loads(data)
  fields['stop_strings'] = tuple(fields['stop_strings'])
  asked = [
    requests.Request(tuple(ids), *rest, tuple(map(_image, images)))
    for ids, *rest, images in rows
  ]
  return asked, requests.SamplingSettings(**fields)


def _image(fields: Sequence[Any]) -> images_lib.Image:
  start, data, crop = fields
  return images_lib.Image(start, base64.b64decode(data), crop)
