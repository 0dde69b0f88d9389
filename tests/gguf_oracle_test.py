"""Tests that llama.cpp loads our GGUF files and computes the same."""

import dataclasses

import jax
import numpy as np
import pytest

from kd.checkpoints import gguf_writer
from kd.checkpoints import weights
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from kd.models import families
from kd.models.gemma3 import config as gemma3_config
from kd.models.qwen3 import config as qwen3_config
from tests.oracles import client

_LOCAL, _GLOBAL = gemma3_config.LOCAL, gemma3_config.GLOBAL
_LENGTH = 48
_NEW = 12
_ROWS = 288  # Rows of the embedding: 263 ids and padding.

# The query scale is not the head width, so that it is folded into a norm.
_GEMMA = gemma3_config.Gemma3Config(
  embed_dim=64,
  mlp_dim=96,
  num_heads=4,
  num_kv_heads=2,
  head_dim=32,
  vocab_size=_ROWS,
  layer_kinds=gemma3_config.published_kinds(8),
  window=6,
  context=128,
  query_scale=12.0,
  local_rope_base=5e3,
  global_rope_base=1e6,
  global_rope_factor=8.0,
  norm_epsilon=1e-6,
)
_KINDS = {
  'period 3': gemma3_config.periodic_kinds(6, 3),
  'list': (_GLOBAL, _LOCAL, _LOCAL, _GLOBAL, _LOCAL, _GLOBAL),
  'local': (_LOCAL,) * 7,
  'global': (_GLOBAL,) * 3,
}
_QWEN = qwen3_config.Qwen3Config(
  embed_dim=64,
  mlp_dim=96,
  num_heads=4,
  num_kv_heads=2,
  head_dim=32,
  vocab_size=trained_byte_level.VOCABULARY + 16,
  num_layers=2,
  context=128,
  rope_base=1e6,
  norm_epsilon=1e-6,
  tied=False,
)
# By case: the model, the type, and the tolerance of log-probabilities. The GELU
# of llama.cpp is a float16 table. With weights in Q8_0 or Q4_0, llama.cpp also
# quantizes activations to Q8_0.
_CASES = {
  'F32': (_GEMMA, 'F32', 0.02),
  **{
    name: (dataclasses.replace(_GEMMA, layer_kinds=kinds), 'F32', 0.02)
    for name, kinds in _KINDS.items()
  },
  'F16': (_GEMMA, 'F16', 0.05),
  'BF16': (_GEMMA, 'BF16', 0.15),
  'Q8_0': (_GEMMA, 'Q8_0', 0.5),
  'Q4_0': (_GEMMA, 'Q4_0', 0.5),
  'qwen3': (_QWEN, 'F32', 0.02),
}
_GREEDY = ('F32', 'list', 'qwen3')


def _random(config):
  """Returns a model with random norms and large logits, and its parameters."""
  model = families.build(config, 'float32', 'none', 'student')
  random = np.random.default_rng(1)
  draw = lambda x: (0.3 * random.normal(size=x.shape)).astype(np.float32)
  return model, jax.tree.map(draw, model.abstract_params())


def _texts():
  """Returns 20 rows of ids by name, BOS first."""
  random = np.random.default_rng(0)
  return {
    f'text{i}': np.concatenate(
      [[2], random.integers(6, 263, random.integers(1, 31))]
    ).astype(np.int32)
    for i in range(20)
  }


def _log_probs(model, params, rows, size):
  """Returns log-probabilities [B, L, size] of rows padded to one length."""
  tokens = np.zeros((len(rows), _LENGTH), np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  positions = np.tile(np.arange(_LENGTH, dtype=np.int32), (len(rows), 1))

  @jax.jit
  def run(params):
    segment_ids = np.ones_like(positions)
    hidden, _ = model.apply({'params': params}, tokens, positions, segment_ids)
    logits = hidden @ model.unembedding(params).T
    return jax.nn.log_softmax(logits[..., :size])

  return np.asarray(run(params))


def _chat_case(file):
  """Writes a model that answers 'A' after a newline and then ends its turn.

  Its layers add nothing. The logits of the next id are a row of a symmetric
  matrix, the product of the embedding and the final norm.
  """
  tokenizer = tokenizers.load('bytes')
  model, params = _random(_GEMMA.keep_layers((0,)))
  params = jax.tree.map(lambda x: -np.ones_like(x), params)
  ids = [*tokenizer.encode('\nA'), tokenizer.stop_ids[1]]
  values, vectors = np.linalg.eigh([[0, 1, 0], [1, 0, 2], [0, 2, 0]])
  params['embedding'] = np.zeros_like(params['embedding'])
  params['embedding'][ids, :3] = vectors * np.abs(values) ** 0.5
  params['final_norm']['scale'][:3] += np.sign(values)
  metadata = gguf_tokenizers.fields(tokenizer, _ROWS, 'gemma', 'data.tokenizer')
  gguf_writer.write(file, params, model.config, 'F32', 'F32', metadata)
  chat = [{'role': 'user', 'content': 'Say A'}]
  return dict(file=file, chats=[chat], new_tokens=8)


def test_a_chat_stops_at_the_end_of_the_turn(oracle):
  _, _, results, _ = oracle
  assert results['chat']['chats'] == [['A', 'stop']]


@pytest.fixture(scope='module')
def oracle(tmp_path_factory):
  folder = tmp_path_factory.mktemp('gguf')
  qwen = tokenizers.load(
    trained_byte_level.write(tmp_path_factory.mktemp('qwen'))
  )
  ours, cases, texts = {}, {}, _texts()
  for name, (config, kind, _) in _CASES.items():
    tokenizer, template = tokenizers.load('bytes'), 'gemma'
    if config.family == 'qwen3':
      tokenizer, template = qwen, 'qwen3'
    file = str(folder / f'{name}.gguf')
    model, params = _random(config)
    metadata = gguf_tokenizers.fields(
      tokenizer, config.vocab_size, template, 'data.tokenizer'
    )
    table = gguf_writer.embedding_type('auto', kind)
    gguf_writer.write(file, params, config, kind, table, metadata)
    if kind != 'F32':  # Compare with the rounded parameters in the file.
      read = weights.model_config(f'gguf:{file}', 'file')
      model = families.build(read, 'float32', 'none', 'student')
      init = f'gguf:{file}'
      params = weights.load(init, model, None, (), 'float32', 'file')
    ours[name] = model, params
    cases[name] = dict(file=file, log_probs=list(texts))
    if name in _GREEDY:
      cases[name] |= dict(generate=list(texts), new_tokens=_NEW)
  cases['chat'] = _chat_case(str(folder / 'chat.gguf'))
  results, arrays = client.run(
    'llama', 'models', cases, texts, tmp_path_factory.mktemp('oracle')
  )
  return ours, texts, results, arrays


@pytest.mark.parametrize('name', list(_CASES))
def test_log_probabilities_and_greedy_text_equal(name, oracle):
  ours, texts, results, arrays = oracle
  model, params = ours[name]
  size = results[name]['size']
  at = _log_probs(model, params, texts.values(), size)
  largest = max(
    np.abs(at[i, len(ids) - 1] - arrays[f'{name}.{key}']).max()
    for i, (key, ids) in enumerate(texts.items())
  )
  assert largest < _CASES[name][2]
  if name not in _GREEDY:
    return
  whole = [
    np.concatenate([ids, results[name]['generated'][key]]).astype(np.int32)
    for key, ids in texts.items()
  ]
  greedy = _log_probs(model, params, whole, size).argmax(-1)
  for row, ids, text in zip(greedy, texts.values(), whole, strict=True):
    np.testing.assert_array_equal(
      row[len(ids) - 1 : len(text) - 1], text[len(ids) :]
    )
