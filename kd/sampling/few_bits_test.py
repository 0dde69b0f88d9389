"""Decoding with codes against decoding with the matrices that they mean."""

import jax
import jax.numpy as jnp
import numpy as np

from kd.quantization import quantized_model
from kd.quantization import rules
from kd.sampling import device
from kd.sampling import engine_cases as cases


def test_models_in_few_bits_decode_from_codes():
  params = cases.strong_params()
  fields = {'weights': 'int4', 'tables': 'int8', 'rules': {}}
  chosen = rules.scheme_of(cases.CONFIG, fields, 'student')
  rounded = quantized_model.FakeQuantizedModel(cases.MODEL, chosen)
  stored = quantized_model.StoredModel(cases.MODEL, chosen, 'float32')
  held = jax.jit(stored.from_plain)(params, jax.random.key(0))
  asked, how = cases.asked(cases.prompts([3, 20])), cases.settings()
  plain = jax.jit(stored.plain_params)(held)
  expected = cases.make().generate(plain, asked, how)
  for model, given in ((rounded, params), (stored, held)):
    weights = device.weights(model, given)
    codes = [x for x in jax.tree.leaves(weights) if x.dtype == jnp.int8]
    # Two codes of a layer's matrix in a byte, one of the embedding's.
    matrices = cases.CONFIG.num_layers * cases.CONFIG.layer_matrices
    table = cases.CONFIG.vocab_size * cases.CONFIG.embed_dim
    assert sum(x.nbytes for x in codes) == matrices / 2 + table
    found = cases.make(model=model).generate(given, asked, how)
    for (one,), (other,) in zip(found, expected, strict=True):
      assert one.ids == other.ids
      np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-3)
