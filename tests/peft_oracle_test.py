"""Tests that PEFT loads our adapters, with and without a vision tower."""

import functools
import json

import jax
import numpy as np
import pytest

from kd.checkpoints import huggingface
from kd.checkpoints import peft
from kd.core import types
from kd.models import families
from kd.models import lora
from kd.models import model_cases
from kd.models import tensors
from tests.oracles import client

_TOKENS = np.random.default_rng(0).integers(6, 64, 40, np.int32)
# By name: the model_type of the base's config.json, targets, rank-stabilized.
_CASES = {
  'text': ('gemma3_text', tensors.LAYER_MATRICES, False),
  'vision': ('gemma3', ('q_proj', 'o_proj', 'down_proj'), True),
}


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params):
  row = lambda x: np.asarray(x, np.int32)[None]
  batch = types.Batch(
    tokens=row(_TOKENS),
    targets=row(_TOKENS),
    positions=row(np.arange(len(_TOKENS))),
    segment_ids=row(np.ones(len(_TOKENS))),
    parts=row(np.zeros(len(_TOKENS))),
    weights=np.ones((1, len(_TOKENS)), np.float32),
    row_id=np.zeros(1, np.int32),
  )
  hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
  return hidden[0] @ model.unembedding(params).T


@pytest.fixture(scope='module')
def oracle(tmp_path_factory):
  folder = tmp_path_factory.mktemp('adapters')
  inner = families.build(model_cases.CONFIG, 'float32', 'none', 'student')
  base = model_cases.random_params(inner.abstract_params())
  cases, ours = {}, {'base': _logits(inner, base)}
  text = str(folder / 'base')
  huggingface.write(
    text, base, model_cases.CONFIG, 'float32', 2, [1], 0, lambda _: None
  )
  for name, (model_type, targets, stabilized) in _CASES.items():
    model = lora.LoraModel(inner, 3, 8.0, targets, stabilized)
    shapes = jax.eval_shape(model.init_adapters, jax.random.key(0))
    params = model.with_base(base, model_cases.random_params(shapes, seed=1))
    ours[name] = _logits(model, params)
    named, adapter = folder / f'{name}_base', folder / f'{name}_adapter'
    named.mkdir()
    (named / 'config.json').write_text(json.dumps({'model_type': model_type}))
    peft.write(str(adapter), params, model, str(named), lambda _: None)
    cases[name] = dict(
      base=text, adapter=str(adapter), with_vision=model_type == 'gemma3'
    )
  directory = tmp_path_factory.mktemp('oracle')
  results, arrays = client.run(
    'adapters', 'load', cases, {'text': _TOKENS}, directory
  )
  return ours, results, arrays


@pytest.mark.parametrize('name', list(_CASES))
def test_adapted_and_merged_models_have_our_logits(name, oracle):
  ours, results, arrays = oracle
  # With a wrong prefix PEFT only warns of missing keys and ignores the adapter.
  warned = [w for w in results[name]['warnings'] if 'key' in w]
  assert warned == []
  apart = lambda x, y: np.abs(x - y).max()
  assert apart(arrays[f'{name}.base'], ours['base']) < 1e-4
  assert apart(ours[name], ours['base']) > 0.1
  assert apart(arrays[f'{name}.adapted'], ours[name]) < 1e-4
  assert apart(arrays[f'{name}.merged'], ours[name]) < 1e-4
