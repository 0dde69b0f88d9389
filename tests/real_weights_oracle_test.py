"""Tests the conversion and logits of the real Gemma 3 270M."""

import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.checkpoints import gguf_parts
from kd.checkpoints import gguf_writer
from kd.checkpoints import weights
from kd.input_pipeline import gguf_tokenizers
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.models import tensors as tensors_lib
from tests.oracles import client

_TEXTS = 4
_MULTIPLE = 256  # Rows are padded to multiples of it: two lengths to compile.


@pytest.fixture(scope='module')
def gguf():
  return client.gguf()


@pytest.fixture(scope='module')
def texts(gguf):
  """Token ids of questions with their answers, BOS first."""
  if 'KD_DATA_DIR' not in os.environ:
    pytest.skip('set KD_DATA_DIR to the folder that holds gsm8k/train.jsonl')
  file = os.path.join(os.environ['KD_DATA_DIR'], 'gsm8k', 'train.jsonl')
  tokenizer = tokenizers.load(f'gguf:{gguf}')
  with open(file, encoding='utf-8') as f:
    problems = [json.loads(next(f)) for _ in range(_TEXTS)]
  return {
    f'text{i}': np.array(
      [2] + tokenizer.encode(f'{p["question"]}\n{p["answer"]}'), np.int32
    )
    for i, p in enumerate(problems)
  }


@pytest.fixture(scope='module')
def oracle(gguf, texts, tmp_path_factory):
  """The result of transformers, and a file of logits for each text."""
  case = dict(gguf=gguf, logits=list(texts), digests=True)
  results, arrays = client.run(
    'hf', 'models', {'real': case}, texts, tmp_path_factory.mktemp('oracle')
  )
  return results['real'], arrays


@pytest.fixture(scope='module')
def ours(gguf):
  init = f'gguf:{gguf}'
  model = families.build(
    weights.model_config(init, 'student.init'), 'float32', 'none', 'student'
  )
  return model, weights.load(init, model, None, (), 'float32', 'student.init')


def test_conversion_is_bit_equal(ours, oracle):
  model, params = ours
  result, _ = oracle
  digests = dict(result['digests'])
  # State dicts also contain the tied head.
  assert digests.pop('lm_head.weight') == digests['model.embed_tokens.weight']
  found = {}
  for t in families.of(model.config).tensors(model.config):
    leaf = tensors_lib.leaf(params, t.path)
    array = np.asarray(leaf if t.group is None else leaf[t.group])
    array = np.ascontiguousarray(t.to_file(array, tensors_lib.HF))
    found[t.hf] = hashlib.sha256(array).hexdigest()
  assert found == digests


def _nll(logits, tokens):
  """Returns the mean NLL in nats per token, in float64."""
  total = 0.0
  for row, target in zip(logits[:-1], tokens[1:], strict=True):
    row = row.astype(np.float64)
    top = row.max()
    total += top + np.log(np.exp(row - top).sum()) - row[target]
  return total / (len(tokens) - 1)


def test_logits_top_1_and_nll_equal_transformers(ours, oracle, texts):
  model, params = ours
  _, arrays = oracle

  @jax.jit
  def run(params, tokens, length):
    positions = jnp.arange(tokens.shape[1])[None]
    segment_ids = (positions < length).astype(jnp.int32)
    hidden, _ = model.apply({'params': params}, tokens, positions, segment_ids)
    return hidden[0] @ params['embedding'].T

  largest, flips, count, nll = 0.0, 0, 0, []
  for name, tokens in texts.items():
    padded = np.zeros((1, -len(tokens) // _MULTIPLE * -_MULTIPLE), np.int32)
    padded[0, : len(tokens)] = tokens
    found = np.asarray(run(params, padded, len(tokens)))[: len(tokens)]
    reference = arrays[f'real.{name}']
    largest = max(largest, float(np.abs(found - reference).max()))
    flips += int((found.argmax(-1) != reference.argmax(-1)).sum())
    count += len(tokens)
    nll.append((_nll(found, tokens), _nll(reference, tokens)))
    os.unlink(reference.filename)  # 200 MB each.
  found_nll, reference_nll = np.mean(nll, axis=0)
  print(
    f'{count} tokens of {len(texts)} texts: largest logit difference '
    f'{largest:.2e}, top-1 flips {flips}, NLL {found_nll:.6f} and '
    f'{reference_nll:.6f} nats'
  )
  assert largest <= 2e-3
  assert flips == 0
  assert abs(found_nll - reference_nll) < 5e-5


def test_exported_gguf_metadata_equals_the_original(gguf, tmp_path):
  """The file of the tokenizer does not matter."""
  lists = [f'tokenizer.ggml.{x}' for x in ('tokens', 'token_type', 'scores')]
  real = gguf_parts.read(gguf, lists).metadata
  # The model's names, and a type that we do not write.
  named = ('name', 'basename', 'size_label', 'file_type', 'architecture')
  for name in named:
    del real[f'general.{name}']
  config = families.variant('270m', 'student.variant')
  own = tokenizers.load(f'gguf:{gguf}')
  hf_tokenizer.write(own, tmp_path, '')
  os.rename(tmp_path / 'tokenizer.model', tmp_path / 'a.model')
  (tmp_path / 'config.json').write_text('{"model_type": "gemma3_text"}')
  for spec in (f'model:{tmp_path}/a.model', f'hf:{tmp_path}'):
    tokenizer = tokenizers.load(spec)
    fields = gguf_tokenizers.fields(
      tokenizer, config.vocab_size, 'plain', 'data.tokenizer'
    )
    fields = gguf_writer.fields(config, 'F32', fields)
    if spec.startswith('hf'):
      # tokenizer.json has no scores, and no merge yields a single character.
      for values in (real, fields):
        values['tokenizer.ggml.scores'] = [
          score
          for text, score in zip(
            values['tokenizer.ggml.tokens'],
            values['tokenizer.ggml.scores'],
            strict=True,
          )
          if len(text) > 1
        ]
    for name in named:
      fields.pop(f'general.{name}', None)
    eps = 'gemma3.attention.layer_norm_rms_epsilon'
    fields[eps] = float(np.float32(fields[eps]))
    assert fields.keys() == real.keys()
    for key, value in real.items():
      assert fields[key] == value and type(fields[key]) is type(value), key
