"""Splash attention, interpreted, against the formula in float64."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import attention_mask
from kd.core import errors
from kd.models import families
from kd.models.attention import attention_backend
from kd.models.attention import attention_cases as cases
from kd.models.attention import blockwise_attention
from kd.models.attention import splash

_LENGTH = 300  # Three blocks, the last one padded.
_1B = families.variant('1b', '')
_TPU = attention_backend.Place('tpu', 0.0, packed=True, length_shards=1)
_GPU = attention_backend.Place('gpu', 9.0, packed=False, length_shards=1)


@pytest.mark.parametrize('window', [None, 1, 127, 128, 129])
def test_packed_segments_equal_the_formula(window):
  """Windows end near the borders of blocks of 128, and within segments."""
  places = cases.places(150, 101, 30, left=5, right=14)
  arrays = cases.heads(_LENGTH)
  real = (np.asarray(places.segment_ids) > 0)[..., None, None]
  arrays[-1] *= real
  mask = attention_mask.AttentionMask(places, window)
  attend = lambda *x: splash.attend(*x, mask, cases.SCALE, interpret=True)
  found = cases.run(attend, arrays)
  assert np.isfinite(found[0]).all()
  found[0] *= real
  wanted = cases.exact(arrays, cases.seen(places, window))
  for got, want in zip(found, wanted, strict=True):
    np.testing.assert_allclose(got, want, atol=3e-6)


def test_bfloat16_is_as_accurate_as_the_xla_blocks():
  places = cases.places(128)
  arrays = [np.asarray(jnp.bfloat16(x), np.float64) for x in cases.heads(128)]
  mask = attention_mask.AttentionMask(places, None)
  wanted = cases.exact(arrays, cases.seen(places, None))

  def error(attend):
    found = cases.run(attend, arrays, jnp.bfloat16)
    return [np.abs(x - y).mean() for x, y in zip(found, wanted, strict=True)]

  ours = error(lambda *x: splash.attend(*x, mask, cases.SCALE, True))
  pairs = error(
    lambda *x: blockwise_attention.attend(*x, mask, cases.SCALE, 64)
  )
  assert (np.array(ours) < 1.5 * np.array(pairs)).all()


@pytest.mark.parametrize(
  'length, parts, block',
  [(1, 1, 128), (640, 1, 128), (768, 1, 256), (32768, 1, 512), (2048, 8, 256)],
)
def test_blocks_waste_less_than_the_smallest(length, parts, block):
  assert splash.block_size(length, parts) == block


def test_auto_chooses_the_kernel_of_the_platform():
  choose = lambda place, dtype='bfloat16', config=_1B: attention_backend.choose(
    'auto', config, dtype, place, 'student.attention'
  )
  assert choose(_TPU) == attention_backend.SPLASH
  assert choose(_GPU) == attention_backend.CUDNN
  changed = lambda **fields: dataclasses.replace(_GPU, **fields)
  assert choose(changed(packed=True)) == attention_backend.XLA
  assert choose(changed(length_shards=2)) == attention_backend.XLA
  assert choose(changed(capability=8.0)) == attention_backend.XLA  # 256 wide.
  assert choose(changed(platform='cpu')) == attention_backend.XLA
  assert choose(_GPU, 'float32') == attention_backend.XLA
  narrow = dataclasses.replace(_1B, head_dim=64)
  assert choose(_TPU, config=narrow) == attention_backend.XLA


@pytest.mark.parametrize(
  'name, place, words',
  [
    ('splash', _GPU, ("'splash'", 'gpu', "'auto', 'xla', 'cudnn'")),
    ('cudnn', _TPU, ("'cudnn'", 'tpu', "'auto', 'xla', 'splash'")),
    (
      'cudnn',
      dataclasses.replace(_GPU, packed=True),
      ('data.pack', "'auto', 'xla'"),
    ),
    ('flash', _TPU, ('splash', "'flash'")),
  ],
)
def test_unsupported_kernel_settings_are_refused(name, place, words):
  with pytest.raises(errors.ConfigError) as error:
    attention_backend.choose(name, _1B, 'bfloat16', place, 'student.attention')
  assert str(error.value).startswith('student.attention: ')
  for word in words:
    assert word in str(error.value)
