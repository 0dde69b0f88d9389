"""Attention of sharded rows and heads is equal to that on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.core import attention_mask
from kd.models.attention import attention_cases as cases
from kd.models.attention import blockwise_attention
from kd.models.attention import splash
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules

_LENGTH = 768  # In parts of 192 or 384, which are no multiple of blocks.
_PAIRS = functools.partial(blockwise_attention.attend, block=128)
_SPLASH = functools.partial(splash.attend, interpret=True)


def _rows():
  """Two rows with segments across every border of shards."""
  packed = cases.places(100, 300, 250, 60, right=58)
  whole = cases.places(_LENGTH)
  return jax.tree.map(lambda *x: jnp.concatenate(x), packed, whole)


@functools.cache
def _wanted(window):
  places, arrays = _rows(), _arrays()
  one = lambda row, x: x[row : row + 1]
  made = [
    cases.exact(
      [one(row, x) for x in arrays],
      cases.seen(jax.tree.map(functools.partial(one, row), places), window),
    )
    for row in (0, 1)
  ]
  return [np.concatenate(x) for x in zip(*made, strict=True)]


def _arrays():
  """One key head, fewer than the devices that heads are split over."""
  random = np.random.default_rng(0)
  made = [random.normal(size=(2, _LENGTH, n, 8)) for n in (4, 1, 1, 4)]
  made[-1] *= (np.asarray(_rows().segment_ids) > 0)[..., None, None]
  return made


@pytest.mark.parametrize('form', [_PAIRS, _SPLASH], ids=['pairs', 'splash'])
@pytest.mark.parametrize(
  'window, shape', [(None, (1, 2, 1, 4)), (130, (2, 1, 2, 2))]
)
def test_parts_equal_the_formula(form, window, shape):
  mesh = mesh_lib.make(
    dict(zip(mesh_lib.AXES, shape, strict=False)), jax.devices()
  )
  mask = attention_mask.AttentionMask(_rows(), window)
  attend = lambda *x: form(*x, mask=mask, scale=cases.SCALE)
  with rules.active(mesh):
    found = cases.run(attend, _arrays())
  found[0] *= (np.asarray(_rows().segment_ids) > 0)[..., None, None]
  for got, want in zip(found, _wanted(window), strict=True):
    np.testing.assert_allclose(got, want, atol=5e-6)


def test_each_device_computes_only_its_scores():
  """Each of 4 shards computes as many pairs as the last, the longest one."""
  mesh = mesh_lib.make({'fsdp': 2, 'sequence': 4, 'data': 1}, jax.devices())
  mask = attention_mask.AttentionMask(_rows(), None)
  attend = lambda *x: _PAIRS(*x, mask=mask, scale=cases.SCALE)
  arrays = [jnp.asarray(x, jnp.float32) for x in _arrays()[:3]]
  with rules.active(mesh):
    text = str(jax.jit(attend).trace(*arrays).jaxpr)
  # Its 192 queries are two blocks of 128: 6 and 6 blocks of keys.
  assert 'length=12\n' in text
