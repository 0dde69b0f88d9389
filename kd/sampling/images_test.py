"""Compares answers to prompts with images with whole forward passes."""

import dataclasses
import io

import jax
import numpy as np
from PIL import Image
import pytest

from kd.core import types
from kd.models import families
from kd.models.vision import config as vision_config
from kd.sampling import continuous
from kd.sampling import device
from kd.sampling import engine as engine_lib
from kd.sampling import engine_cases as cases
from kd.sampling import images as images_lib
from kd.sampling import requests

_VISION = vision_config.VisionConfig(
  image_size=8,
  patch_size=2,
  embed_dim=8,
  mlp_dim=16,
  num_heads=2,
  num_layers=1,
  norm_epsilon=1e-6,
  tokens_per_side=2,
)
_CONFIG = dataclasses.replace(cases.CONFIG, vision=_VISION)
_MODEL = families.build(_CONFIG, 'float32', 'none', 'student')
# As in Gemma, beyond the ids of the tokenizer and the embedding table.
_SOFT = cases.VOCAB
_NEW = 6


@pytest.fixture(name='params', scope='module')
def _params():
  return cases.strong_params(_CONFIG)


def _file(seed):
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()


def _request(number, length, starts):
  (ids,) = cases.prompts([length], seed=number)
  ids = list(ids)
  for start in starts:
    ids[start : start + 4] = [_SOFT] * 4
  images = [
    images_lib.Image(start, _file(10 * number + i))
    for i, start in enumerate(starts)
  ]
  return requests.Request(tuple(ids), number, 1, images=tuple(images))


def _requests():
  """Returns requests with no image, one, one past the window, and three."""
  return [
    _request(1, 9, ()),
    _request(2, 12, (3,)),
    _request(3, 30, (1,)),
    _request(4, 31, (0, 9, 25)),
  ]


def _expected(params, request):
  """Returns the most likely ids, by a whole forward pass for each."""
  ids, length = list(request.ids), 48
  index = np.full((1, length), -1, np.int32)
  pixels = np.zeros((1, 3, 8, 8, 3), np.uint8)
  for number, image in enumerate(request.images):
    index[0, image.start : image.start + 4] = np.arange(4) + 4 * number
    pixels[0, number] = np.asarray(Image.open(io.BytesIO(image.data)))
  images = types.Images(pixels, index) if request.images else None
  for _ in range(_NEW):
    tokens = np.zeros((1, length), np.int32)
    tokens[0, : len(ids)] = ids
    positions = np.arange(length, dtype=np.int32)[None]
    segments = (positions < len(ids)).astype(np.int32)
    ones = np.ones((1, length), np.float32)
    batch = types.Batch(
      *(tokens, tokens, positions, segments, tokens, ones, ones[0]), images
    )
    hidden = np.asarray(_forward(params, batch))[0, len(ids) - 1]
    logits = hidden @ np.asarray(_MODEL.unembedding(params)).T
    ids.append(int(np.argmax(logits[: cases.VOCAB])))
  return tuple(ids[len(request.ids) :])


@jax.jit
def _forward(params, batch):
  return _MODEL.forward(params, batch, types.TapSpec((), ()))[0]


def test_answers_equal_forward_passes_in_any_batch(params):
  asked = _requests()
  want = [_expected(params, request) for request in asked]
  assert len(set(want)) == len(want)
  engine = cases.make(batch=3, model=_MODEL)
  settings = cases.settings(max_new_tokens=_NEW)
  together = engine.generate(params, asked, settings)
  assert [samples[0].ids for samples in together] == want
  ((alone,),) = engine.generate(params, asked[2:3], settings)
  assert alone == together[2][0]
  # Pixels are equivalent to the file that they are decoded from.
  pixels = [
    dataclasses.replace(image, data=image.pixels(8))
    for image in asked[3].images
  ]
  decoded = dataclasses.replace(asked[3], images=tuple(pixels))
  assert engine.generate(params, [decoded], settings) == [together[3]]


def test_continuous_batches_compile_all_programs_at_the_start(params):
  words = engine_lib.Vocabulary(cases.VOCAB, (), 0, cases.letters)
  shapes = continuous.Shapes(
    batch=1, length=32, steps=_NEW, min_slots=32, images=3
  )
  batch = continuous.ContinuousBatch(_MODEL, params, words, shapes)
  *_, (done, total) = batch.compile()
  assert done == total
  programs = device.prefill._cache_size()
  asked = [_request(2, 12, (3,)), _request(4, 24, (0, 9, 18))]
  for request in asked:
    answer = continuous.Answer(request, 0, cases.settings(max_new_tokens=_NEW))
    batch.add(answer, batch.prefill(request.ids, images=request.images))
    while not answer.ended:
      batch.step()
    assert answer.result.ids == _expected(params, request)
  assert device.prefill._cache_size() == programs


@pytest.mark.parametrize(
  'request_, message',
  [
    (_request(1, 4, (0,)), 'needs an end mark'),
    (_request(1, 20, (5, 7)), 'image 1 begins at 7'),
    (dataclasses.replace(_request(1, 20, (5,)), images=()), f'id {_SOFT}'),
  ],
)
def test_misplaced_images_are_refused(params, request_, message):
  engine = cases.make(model=_MODEL)
  with pytest.raises(ValueError, match=message):
    engine.generate(params, [request_], cases.settings())
  with pytest.raises(ValueError, match='reads no images'):
    cases.make().generate(params, [_request(1, 9, (2,))], cases.settings())
