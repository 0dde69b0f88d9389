"""Tests that llama.cpp reads our exported vision tower with the same result."""

import base64
import dataclasses
import io

import jax
import numpy as np
from PIL import Image
from scipy import special

from kd.checkpoints import gguf_writer
from kd.checkpoints import mmproj
from kd.core import types
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import tokenizers
from kd.models import families
from tests.oracles import client

# An image is longer than the window.
_CONFIG = dataclasses.replace(
  families.variant('tiny', 'variant', with_vision=True), window=8
)


def _draw(model):
  """Returns parameters with which an image affects the text after it."""
  random = np.random.default_rng(0)

  def one(path, x):
    name = jax.tree_util.keystr(path)
    drawn = random.normal(size=x.shape).astype(np.float32)
    if 'positions' in name:
      return drawn
    if name == "['embedding']":
      return 0.3 * drawn
    if 'scale' in name or 'bias' in name:
      is_layer_norm = "['tower']" in name and 'scale' in name
      return 0.2 * drawn + np.float32(is_layer_norm)
    return drawn / np.float32(x.shape[-2] ** 0.5)

  return jax.tree_util.tree_map_with_path(one, model.abstract_params())


def test_answers_about_images_equal_llama_cpps(tmp_path):
  model = families.build(_CONFIG, 'float32', 'none', 'student')
  params = _draw(model)
  tokenizer = tokenizers.load('bytes')
  fields = gguf_tokenizers.fields(tokenizer, 264, 'plain', 'tokenizer')
  text, tower = str(tmp_path / 'text.gguf'), str(tmp_path / 'mmproj.gguf')
  metadata = {'general.name': 'small', **fields}
  gguf_writer.write(text, params, _CONFIG, 'F32', 'F32', metadata)
  mmproj.write(tower, params, _CONFIG, 'F32', 'small')
  shape = (56, 56, 3)
  pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  png = io.BytesIO()
  Image.fromarray(pixels).save(png, 'PNG')
  prompt = 'ab<image>cd', base64.b64encode(png.getvalue()).decode()
  case = dict(file=text, mmproj=tower, image_log_probs={'picture': prompt})
  _, arrays = client.run('llama', 'models', {'m': case}, {}, tmp_path / 'run')
  theirs = arrays['m.picture']

  # llama.cpp adds the texts of Gemma's tokens around an image.
  before = [tokenizer.bos_id, *tokenizer.encode('ab<start_of_image>')]
  after = tokenizer.encode('<end_of_image>cd')
  count = _CONFIG.vision.soft_tokens
  tokens = np.array([*before, *[0] * count, *after], np.int32)[None]
  index = np.full_like(tokens, -1)
  index[0, len(before) : len(before) + count] = range(count)
  length = np.array([tokens.shape[1]], np.int32)

  def ours(pixels):
    images = types.Images(pixels[None, None], index)
    hidden, _ = model.prefill(params, tokens, length, images)
    logits = np.asarray(hidden[0, -1] @ params['embedding'].T)
    return special.log_softmax(logits)[: len(theirs)]

  # llama.cpp omits only a few log-probabilities.
  assert np.isfinite(theirs).sum() > 250
  assert np.nanmax(np.abs(ours(pixels) - theirs)) < 0.02
  assert np.nanmax(np.abs(ours(pixels[::-1]) - theirs)) > 0.3
