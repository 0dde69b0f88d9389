"""Tests Qwen3 against transformers on random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.checkpoints import huggingface
from kd.checkpoints import weights
from kd.core import types
from kd.models import families
from tests.oracles import client

_DENSE = (
  *('qwen3_0_6b', 'qwen3_1_7b', 'qwen3_4b'),
  *('qwen3_8b', 'qwen3_14b', 'qwen3_32b'),
)
_LAYERS, _VOCAB, _NARROWER = 3, 283, 8
_EOS = [281, 282]


def _transformers_config(config):
  return dict(
    model_type='qwen3',
    hidden_size=config.embed_dim,
    intermediate_size=config.mlp_dim,
    num_hidden_layers=config.num_layers,
    num_attention_heads=config.num_heads,
    num_key_value_heads=config.num_kv_heads,
    head_dim=config.head_dim,
    vocab_size=config.vocab_size,
    max_position_embeddings=config.context,
    rope_parameters={'rope_type': 'default', 'rope_theta': config.rope_base},
    rms_norm_eps=config.norm_epsilon,
    tie_word_embeddings=config.tied,
  )


def _small(name):
  """Returns a published config with fewer layers and 1/8 of all widths."""
  config = families.variant(name, 'variant')
  return dataclasses.replace(
    config,
    embed_dim=config.embed_dim // _NARROWER,
    mlp_dim=config.mlp_dim // _NARROWER,
    head_dim=config.head_dim // _NARROWER,
    num_layers=_LAYERS,
    vocab_size=_VOCAB,
  )


def _tokens(length, seed):
  generator = np.random.default_rng(seed)
  return generator.integers(0, 280, length, np.int32)


# The longest is computed in blocks of positions; see attention.causal.
_TEXTS = {
  'long': _tokens(1100, 0),
  'a': _tokens(40, 1),
  'b': _tokens(23, 2),
  'c': _tokens(9, 3),
}
_TIED, _UNTIED = 'qwen3_0_6b', 'qwen3_8b'


@pytest.fixture(scope='module')
def oracle(tmp_path_factory):
  """Models of transformers: folders, results, and logits by text."""
  folder = tmp_path_factory.mktemp('models')
  cases = {
    name: dict(
      directory=str(folder / name),
      config=_transformers_config(_small(name)),
      dtype='float32',
      logits=list(_TEXTS) if name in (_TIED, _UNTIED) else ['a'],
      generate=['a'] if name in (_TIED, _UNTIED) else [],
    )
    for name in _DENSE
  }
  results, arrays = client.run(
    'hf', 'models', cases, _TEXTS, tmp_path_factory.mktemp('oracle')
  )
  return {name: case['directory'] for name, case in cases.items()}, (
    results,
    arrays,
  )


def _load(directory):
  init = f'hf:{directory}'
  config = weights.model_config(init, 'student.init')
  model = families.build(config, 'float32', 'none', 'student')
  return model, weights.load(init, model, None, (), 'float32', 'student.init')


def _batch(tokens, positions, segment_ids):
  zeros = jnp.zeros_like(tokens)
  return types.Batch(
    tokens=tokens,
    targets=tokens,
    positions=positions,
    segment_ids=segment_ids,
    parts=zeros,
    weights=zeros.astype(jnp.float32),
    row_id=zeros[:, 0],
  )


def _logits(model, params, tokens, positions, segment_ids):
  """Returns logits [L, V] of one row."""

  @jax.jit
  def run(params, batch):
    hidden, _ = model.forward(params, batch, types.TapSpec((), ()))
    return hidden[0] @ model.unembedding(params).T

  row = [np.asarray(x, np.int32)[None] for x in (tokens, positions)]
  ids = np.asarray(segment_ids, np.int32)[None]
  return np.asarray(run(params, _batch(*row, ids)))


def _alone(model, params, tokens):
  return _logits(
    model, params, tokens, np.arange(len(tokens)), np.ones(len(tokens))
  )


@pytest.mark.parametrize('name', _DENSE)
def test_logits_equal_transformers(name, oracle):
  directories, (_, arrays) = oracle
  model, params = _load(directories[name])
  # The config that transformers wrote has the sizes of ours.
  assert model.config == _small(name)
  for text in ('a', 'long') if name in (_TIED, _UNTIED) else ('a',):
    reference = arrays[f'{name}.{text}']
    assert reference.std() > 0.5
    ours = _alone(model, params, _TEXTS[text])
    assert np.abs(ours - reference).max() < 1e-3, text


@pytest.mark.parametrize('name', [_TIED, _UNTIED])
def test_packed_rows_equal_separate_texts(name, oracle):
  directories, (_, arrays) = oracle
  padding = np.full(5, 7, np.int32)
  row = np.concatenate([*(_TEXTS[key] for key in 'abc'), padding])
  lengths = [len(_TEXTS[key]) for key in 'abc']
  segment_ids = np.repeat([1, 2, 3, 0], [*lengths, 5])
  positions = np.concatenate([*map(np.arange, lengths), np.zeros(5)])
  logits = _logits(*_load(directories[name]), row, positions, segment_ids)
  for i, key in enumerate('abc', 1):
    difference = logits[segment_ids == i] - arrays[f'{name}.{key}']
    assert np.abs(difference).max() < 1e-3, key


@pytest.mark.parametrize('name', [_TIED, _UNTIED])
def test_greedy_decoding_equals_transformers_and_the_full_pass(name, oracle):
  directories, (results, _) = oracle
  model, params = _load(directories[name])
  text = np.array(results[name]['generated']['a'], np.int32)
  prompt, count = len(_TEXTS['a']), len(text) - len(_TEXTS['a'])
  assert count > 0
  full = _alone(model, params, text)

  held = jax.jit(model.decoding_weights)(params)
  cache = model.empty_cache(1, len(text))
  extend = jax.jit(model.extend)
  for position, token in enumerate(text[:-1]):
    ids, where = jnp.array([token]), jnp.array([position], jnp.int32)
    hidden, cache = extend(held, cache, ids, where)
    logits = np.asarray(hidden[0] @ held.unembedding.T)
    assert np.abs(logits - full[position]).max() < 1e-3
    if position >= prompt - 1:
      assert logits.argmax() == text[position + 1]
  # Reading a prompt at once or token by token produces the same cache.
  tokens = np.asarray(text[None, :-1])
  _, read = jax.jit(model.prefill)(params, tokens, jnp.array([len(text) - 1]))
  for ours, theirs in zip(jax.tree.leaves(cache), jax.tree.leaves(read)):
    np.testing.assert_allclose(ours[:, : len(text) - 1], theirs, atol=1e-4)


@pytest.mark.parametrize('name', [_TIED, _UNTIED])
def test_transformers_loads_exported_models(name, tmp_path):
  config = _small(name)
  model = families.build(config, 'float32', 'none', 'student')
  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: (0.3 * random.normal(size=x.shape)).astype(np.float32),
    model.abstract_params(),
  )
  directory = str(tmp_path / 'export')
  huggingface.write(
    *(directory, params, config, 'float32', 0, _EOS, 0, lambda _: None),
    file_bytes=2**20,
  )
  cases = {'export': dict(directory=directory, dtype='float32', logits=['a'])}
  results, arrays = client.run('hf', 'models', cases, _TEXTS, tmp_path / 'run')
  result = results['export']
  assert (result['missing'], result['unexpected']) == ([], [])
  assert result['tied'] == config.tied
  ours = _alone(model, params, _TEXTS['a'])
  scale = np.abs(ours).max()
  assert np.abs(ours - arrays['export.a']).max() < 1e-5 * scale
  # We load our own export.
  again, read = _load(directory)
  assert again.config == config
  jax.tree.map(np.testing.assert_array_equal, read, params)


def test_shapes_of_every_dense_size_equal_transformers(tmp_path):
  configs = {name: families.variant(name, 'variant') for name in _DENSE}
  cases = {name: _transformers_config(c) for name, c in configs.items()}
  results, _ = client.run('hf', 'shapes', cases, {}, tmp_path / 'run')
  for name, config in configs.items():
    theirs = results[name]
    assert config.parameter_count == theirs['parameters'], name
    shapes = {
      t.hf: list(t.file_shape) for t in families.of(config).tensors(config)
    }
    head = theirs['tensors'].pop('lm_head.weight')
    if not config.tied:
      assert shapes.pop('lm_head.weight') == head
    assert shapes == theirs['tensors'], name
  # Billions of parameters, as published for each model.
  published = (0.596, 1.721, 4.022, 8.191, 14.768, 32.762)
  counts = [round(c.parameter_count / 1e9, 3) for c in configs.values()]
  assert counts == list(published)
