"""Tests images in requests; errors name the field."""

import base64
import io
import types

import numpy as np
from PIL import Image
import pytest

from kd.core import errors
from kd.images import form as form_lib
from kd.input_pipeline import tokenizers
from kd.serving import prompts

_TOKENIZER = tokenizers.load('bytes')
_FORM = form_lib.Form(8, 4, _TOKENIZER.image_ids[1], per_row=1)
_LIMITS = prompts.ImageLimits(images=2, pixels=1000, urls=False)


def _model(form=_FORM):
  return types.SimpleNamespace(
    tokenizer=_TOKENIZER,
    template='gemma',
    run=types.SimpleNamespace(image_form=form),
  )


def _url(shade=7, size=(8, 8)):
  file = io.BytesIO()
  Image.new('RGB', size, (shade, 0, 0)).save(file, 'PNG')
  return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()


def _image(url):
  return {'type': 'image_url', 'image_url': {'url': url, 'detail': 'auto'}}


def _text(text):
  return {'type': 'text', 'text': text}


def _read(*parts, form=_FORM):
  messages = [{'role': 'user', 'content': list(parts)}]
  return prompts.chat(messages, _model(form), _LIMITS)


def test_images_are_decoded_at_their_soft_tokens():
  prompt = _read(_image(_url(7)), _text('A'), _image(_url(9)), _text('B'))
  start, soft, end = _TOKENIZER.image_ids
  for image, shade in zip(prompt.images, (7, 9), strict=True):
    block = prompt.ids[image.start - 1 : image.start + 5]
    assert block == (start, *[soft] * 4, end)
    np.testing.assert_array_equal(image.data[..., 0], shade)
    assert image.data.shape == (8, 8, 3)
  assert prompt.ids.count(soft) == 8
  assert not _read(_text('A')).images


@pytest.mark.parametrize(
  'parts, message',
  [
    ([_image(_url())] * 3, 'have 3 images.*at most 2'),
    ([_image(_url(size=(40, 40)))], '40 x 40 pixels.*at most 1,000'),
    ([_image('data:image/png;base64,AAAA')], 'not an image'),
    ([_image('data:image/png;base64,?')], 'not base64'),
    ([_image('http://127.0.0.1/a.png')], 'URLs are not read'),
    ([_image('/etc/hostname')], 'files are not allowed'),
    ([{'type': 'image_url'}], 'is .*image_url.*legal'),
    ([_image(_url()), _text('a\0b')], 'null character'),
    ([{'type': 'input_audio'}], 'image_url'),
  ],
)
def test_invalid_images_are_refused(parts, message):
  with pytest.raises(errors.ConfigError, match=message) as e:
    _read(*parts)
  assert e.value.path.startswith('messages')


def test_a_model_without_a_tower_refuses_images():
  with pytest.raises(errors.ConfigError, match='the model reads no images'):
    _read(_image(_url()), form=None)
