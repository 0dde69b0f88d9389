"""The registry: signatures are schemas."""

import pytest

from kd.core import errors
from kd.core import registry


def _registry():
  shapes = registry.Registry('shape')

  @shapes.register('box')
  def box(scale, *, width, height):
    if width < 0:
      raise errors.ConfigError('width', f'found {width}', legal='0 or more')
    return scale * width * height

  return shapes


def test_builds_from_a_spec():
  spec = {'name': 'box', 'width': 2, 'height': 3}
  assert _registry().build(spec, 'shape', 10) == 60


@pytest.mark.parametrize(
  'change,words',
  [
    ({'name': 'bax'}, ("part.name: unknown shape 'bax'", "'box'")),
    ({'widht': 1}, ('part.widht', "'width'")),
    ({'width': -1}, ('part.width: found -1; legal: 0 or more',)),
  ],
)
def test_wrong_specs_are_named(change, words):
  spec = {'name': 'box', 'width': 2, 'height': 3, **change}
  with pytest.raises(errors.ConfigError) as e:
    _registry().build(spec, 'part', 1)
  assert all(word in str(e.value) for word in words), str(e.value)


def test_a_missing_argument_is_named():
  with pytest.raises(errors.ConfigError, match='part.height: missing'):
    _registry().build({'name': 'box', 'width': 2}, 'part', 1)


def test_a_name_is_registered_once():
  shapes = _registry()
  with pytest.raises(ValueError, match='twice'):
    shapes.register('box')(lambda: None)
