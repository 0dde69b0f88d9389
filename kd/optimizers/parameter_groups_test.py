"""Assignment of parameters to groups, and errors on wrong groups."""

import jax
import numpy as np
import pytest

from kd.config import base
from kd.config import rules
from kd.core import errors
from kd.optimizers import optimizer_cases
from kd.optimizers import parameter_groups

_PAIR = optimizer_cases.SHAPES
build = optimizer_cases.groups


def _by_path(tree):
  """Returns the first number of each layer's parameter, by its path."""
  parts = optimizer_cases.by_path(tree)
  return {path: float(np.ravel(x)[0]) for path, x in parts.items()}


def test_paths_are_listed_for_every_layer():
  paths = set(_by_path(jax.tree.map(lambda x: 0.0, _PAIR)))
  assert {
    *('embedding', 'final_norm.scale', 'losses.hidden.projection.kernel'),
    *(f'layers.{i}.mlp.gate' for i in range(7)),
    *(f'layers.{i}.attention.query_norm.scale' for i in range(7)),
  } <= paths
  assert len(paths) == 3 + 7 * 13


def test_the_first_matching_group_applies():
  groups = build(
    a=base.parameter_group('layers.3', rate=0.0),
    b=base.parameter_group(r'layers\.(3|6)', rate=0.25, weight_decay=0.5),
    c=base.parameter_group('.*norm', weight_decay=7.0),
    d=base.parameter_group('losses|final', rate=3.0),
    e=base.parameter_group('.*embedding', frozen=True),
  )
  trained, _ = groups.split(_PAIR)
  factors = _by_path(groups.factors(trained, 0))
  decays = _by_path(groups.weight_decays(trained, 0.125))
  assert 'embedding' not in factors
  for path, factor in factors.items():
    root, layer, *_ = path.split('.')
    # `final` is neither a path nor its beginning up to a dot.
    expected = {'3': 0.0, '6': 0.25}.get(layer, 1.0)
    assert factor == (3.0 if root == 'losses' else expected), path
    is_own = layer == '6' and root == 'layers'
    decay = 0.5 if is_own else 0.125
    assert decays[path] == (0.0 if path.endswith('scale') else decay), path


def test_stacks_are_frozen_if_all_layers_are():
  # Layers 0 and 3 are stacked in one array, 2 and 5 in another; 6 is separate.
  groups = build(
    is_frozen=lambda path: path == 'layers.6.mlp.up',
    low=base.parameter_group(r'layers\.[0235]\.mlp\.gate', frozen=True),
    some=base.parameter_group(r'layers\.4\.mlp\.gate', frozen=True),
  )
  trained, frozen = groups.split(_PAIR)
  assert set(_by_path(jax.tree.map(lambda x: 0.0, frozen))) == {
    *(f'layers.{i}.mlp.gate' for i in (0, 2, 3, 5)),
    'layers.6.mlp.up',
  }
  zeros = {k for k, v in _by_path(groups.factors(trained, 0)).items() if v == 0}
  assert zeros == {'layers.4.mlp.gate'}
  total = sum(x.size for x in jax.tree.leaves(_PAIR))
  assert groups.count(_PAIR) == (total - 6 * 16 * 32, total)
  whole = parameter_groups.merge(trained, frozen)
  assert jax.tree.structure(whole) == jax.tree.structure(_PAIR)


def test_rates_decay_by_layer_from_the_top():
  groups = build(
    layer_decay=0.5, slow=base.parameter_group(r'.*\.mlp', rate=0.125)
  )
  for path, factor in _by_path(groups.factors(_PAIR, 0)).items():
    root, layer, *_ = path.split('.') + ['']
    depth = {'layers': 6 - int(layer) if layer.isdigit() else 0, 'embedding': 7}
    own = 0.125 if '.mlp.' in path else 1.0
    assert factor == own * 0.5 ** depth.get(root, 0), path


def test_a_group_trains_from_its_first_step():
  groups = build(
    layer_decay=0.5,
    late=base.parameter_group(
      r'layers\.[56]',
      first_step=4,
      rate=base.schedule(
        'linear', begin=1.0, end=3.0, first_step=2, last_step=6
      ),
    ),
  )
  values = jax.jit(lambda step: groups.factors(_PAIR, step))
  for step, rate in ((3, 0.0), (4, 2.0), (5, 2.5), (9, 3.0)):
    factors = _by_path(values(np.int32(step)))
    assert factors['layers.6.mlp.gate'] == rate
    assert factors['layers.5.mlp.gate'] == rate / 2
    assert factors['layers.2.mlp.gate'] == 1 / 16


def test_without_groups_nothing_is_scaled_or_frozen():
  groups = build(one=base.parameter_group('layers.0'))
  trained, frozen = groups.split(_PAIR)
  assert groups.factors(trained, 0) is None
  assert not jax.tree.leaves(frozen)


@pytest.mark.parametrize(
  'match,words',
  [
    (
      'layers.3.mlp.gat',
      ("'layers.3.mlp.gat' matches no", 'layers.3.mlp.gate'),
    ),
    ('embeding', ('groups.x.match', "did you mean 'embedding'")),
    ('layers.4', ('only parameters of earlier groups: low',)),
    ('.*', ('all parameters are frozen',)),
  ],
)
def test_wrong_groups_are_named(match, words):
  groups = build(
    low=base.parameter_group(r'layers\..*', frozen=True),
    x=base.parameter_group(match, frozen=True),
  )
  with pytest.raises(errors.ConfigError) as e:
    groups.check(_PAIR)
  assert all(word in str(e.value) for word in words), str(e.value)


@pytest.mark.parametrize(
  'changes,words',
  [
    (dict(first_step=1000), ('groups.a.first_step', 'fewer than 1000')),
    (dict(frozen=True, rate=0.5), ('groups.a.frozen', 'rate 0.5')),
  ],
)
def test_contradictory_fields_are_named(changes, words):
  config = base.get_config()
  config.optimizer.groups = dict(a=base.parameter_group('layers', **changes))
  with pytest.raises(errors.ConfigError) as e:
    rules.check(base.checked(config))
  assert all(word in str(e.value) for word in words), str(e.value)


def test_illegal_fields_are_named():
  config = base.get_config()
  config.optimizer.groups = dict(a=base.parameter_group('layers.(3'))
  with pytest.raises(errors.ConfigError, match='groups.a.match.*unterminated'):
    base.checked(config)
  config.optimizer.groups.a = base.parameter_group('x', weight_decay=-2.0)
  with pytest.raises(errors.ConfigError, match="-1 .the optimizer's"):
    base.checked(config)
