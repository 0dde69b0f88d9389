"""Lets all processes of a run sample: process 0 asks, the others follow.

A model whose parameters are split over processes answers only where all of them
run the same programs. Process 0 alone reads prompts and writes answers; what it
asks is sent to the others, which compute the same and drop the result.
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

# (requests, settings) to their answers, all at once or one by one.
Sample = Callable[
  [Sequence[requests.Request], requests.SamplingSettings], Iterable[Any]
]


@contextlib.contextmanager
def shared(sample: Sample) -> Iterator[Sample | None]:
  """Makes a sampler one that process 0 can call alone.

  Args:
    sample: answers requests, where all processes call it in the same order.

  Yields:
    To process 0 the sampler; to the others None, after they have answered all
    that process 0 asked within the block.
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
  """Returns the bytes that process 0 passes; b'' ends the others' loop."""
  if jax.process_count() == 1:
    return data
  # The others wait here as long as process 0 reads and writes.
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
