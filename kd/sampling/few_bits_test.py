"""Compares decoding from codes with decoding from dequantized matrices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.models import families
from kd.quantization import code_matrix
from kd.quantization import quantized_model
from kd.quantization import rules
from kd.sampling import device
from kd.sampling import engine_cases as cases
from kd.sampling import picking
from kd.sampling import requests


def test_quantized_models_decode_from_codes():
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


@pytest.mark.parametrize('batch', [1, 3])
def test_decoding_steps_need_no_float_matrices(batch, monkeypatch):
  monkeypatch.setattr(code_matrix, '_TILE', 2**12)
  config = dataclasses.replace(
    cases.CONFIG, embed_dim=64, mlp_dim=512, vocab_size=2048
  )
  inner = families.build(config, 'float32', 'none', 'student')
  fields = {'weights': 'int8', 'tables': 'int8', 'rules': {}}
  chosen = rules.scheme_of(config, fields, 'student')
  model = quantized_model.StoredModel(inner, chosen, 'float32')
  params = model.abstract_params()
  greedy = requests.greedy(4)
  program = device.steps.lower(
    model,
    picking.options(greedy, config.vocab_size),
    jax.eval_shape(model.decoding_weights, params),
    jax.eval_shape(lambda: device.empty(model, batch, 16, repeats=False)),
    picking.parameters(greedy),
    device.Limits(np.int32(2048), np.asarray([1], np.int32), np.int32(0)),
    np.ones(batch, bool),
    4,
  ).compile()
  layers = 4 * config.num_layers * config.layer_matrices
  assert program.memory_analysis().temp_size_in_bytes < layers / 8
