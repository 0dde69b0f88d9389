"""Converting parameters one by one equals converting all at once."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.models import families
from kd.models import lora
from kd.models import model_cases
from kd.models.gemma3 import config as gemma3_config
from kd.partitioning import mesh as mesh_lib
from kd.partitioning import rules
from kd.quantization import quantized_model
from kd.quantization import rules as quantization_rules
from kd.run import conversions

# One array of three layers: a program is compiled for each array.
_CONFIG = dataclasses.replace(
  model_cases.CONFIG, layer_kinds=(gemma3_config.LOCAL,) * 3
)
_PLAIN = families.build(_CONFIG, 'float32', 'none', '')
_FIELDS = {'weights': 'int8', 'tables': 'none', 'rules': {}}
_SCHEMES = quantization_rules.scheme_of(_PLAIN.config, _FIELDS, '')
_MODELS = {
  'lora': lora.LoraModel(_PLAIN, 2, 4.0, ('q_proj', 'down_proj'), False),
  'rounded': quantized_model.FakeQuantizedModel(_PLAIN, _SCHEMES),
}


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize('name', _MODELS)
def test_merged_and_rounded_parts_equal_the_whole(name):
  module = _MODELS[name]
  everywhere = rules.replicated(mesh_lib.make({}, jax.devices()[:1]))
  drawn = model_cases.random_params(module.abstract_params())
  expected = jax.jit(module.plain_params)(drawn)
  params = jax.device_put(drawn, everywhere)
  shardings = jax.tree.map(lambda _: everywhere, expected)
  copied = conversions.plain(module, params, shardings, keep=True)
  _assert_equal(copied, expected)
  assert not any(x.is_deleted() for x in jax.tree.leaves(params))
  _assert_equal(conversions.plain(module, params, shardings, False), expected)
  assert all(x.is_deleted() for x in jax.tree.leaves(params))


def test_stored_parts_equal_the_whole():
  module = quantized_model.StoredModel(_PLAIN, _SCHEMES, 'float32')
  everywhere = rules.replicated(mesh_lib.make({}, jax.devices()[:1]))
  drawn = model_cases.random_params(_PLAIN.abstract_params())
  expected = jax.jit(module.from_plain)(drawn, jax.random.key(0))
  shardings = jax.tree.map(lambda _: everywhere, expected)
  stored = conversions.stored(
    module, jax.device_put(drawn, everywhere), shardings
  )
  _assert_equal(stored, expected)
