import itertools
import random

from kd.models import families
from kd.models.gemma3 import config as gemma3_config


def _every(kinds, wanted):
  """All selections of layers with the wanted kinds, each with its distance."""
  indices = range(len(kinds))
  for layers in itertools.combinations(indices, len(wanted)):
    if all(kinds[k] == kind for k, kind in zip(layers, wanted, strict=True)):
      spacing = len(kinds) / len(wanted)
      distances = [(k - i * spacing) ** 2 for i, k in enumerate(layers)]
      yield sum(distances), layers


def test_closest_layers_equal_a_search_over_all_selections():
  rng = random.Random(0)
  cases = [
    (
      rng.choices(('local', 'global'), k=rng.randint(1, 10)),
      gemma3_config.periodic_kinds(rng.randint(1, 6), rng.randint(2, 4)),
    )
    for _ in range(200)
  ]
  cases += [
    (gemma3_config.published_kinds(14), gemma3_config.published_kinds(n))
    for n in range(1, 15)
  ]
  without = 0
  for kinds, wanted in cases:
    found = gemma3_config.closest_layers(kinds, wanted)
    every = dict(map(reversed, _every(kinds, wanted)))
    if found is None:
      assert not every
      without += 1
    else:
      assert every[found] < min(every.values()) + 1e-9, (kinds, wanted)
  assert 20 < without < 150


def test_closest_layers_of_half_of_270m():
  model = families.variant('270m', '')
  half = gemma3_config.published_kinds(9)
  found = gemma3_config.closest_layers(model.layer_kinds, half)
  assert found == (0, 2, 4, 6, 8, 11, 12, 14, 16)
