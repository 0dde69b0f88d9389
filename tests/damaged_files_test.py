"""Damages a model's files at random: they load, or an error names the file."""

import json
import os
import random
import shutil
import time

import gguf
import numpy as np
import pytest

from kd.checkpoints import gguf_weights
from kd.checkpoints import hf_weights
from kd.checkpoints import tensor_checks
from kd.core import errors
from kd.input_pipeline import tokenizers

_TEACHER = os.path.join(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
  *('data', 'fixtures', 'quickstart_teacher'),
)
_PARTS = ('model-00001-of-00002.gguf', 'model-00002-of-00002.gguf')
_SECONDS = 6
_VALUES = (
  *(None, True, -1, 0, 2**70, 1e308, '', 'linear', [], {}, [[]]),
  *({'rope_type': []}, ['x'], {'a': {}}, 'x' * 10_000),
)


@pytest.fixture(scope='module')
def seed():
  return int(os.environ.get('KD_FUZZ_SEED', time.time_ns() % 10**9))


def _bytes(rng, raw):
  """Flips, cuts, replaces or repeats some bytes, most of them in the header."""
  raw = bytearray(raw)
  for _ in range(rng.randrange(1, 4)):
    at = int(len(raw) * rng.random() ** 4)
    kind = rng.randrange(4)
    if kind == 0 and at < len(raw):
      raw[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
      del raw[at:]
    elif kind == 2:
      raw[at : at + 8] = rng.randbytes(8)
    else:
      raw[at:at] = raw[at : at + rng.randrange(64)]
  return bytes(raw)


def _json(rng, raw):
  """Replaces one value, at any depth, by one of another type."""
  value = json.loads(raw)
  node = value
  while True:
    keys = list(node) if isinstance(node, dict) else range(len(node))
    if not keys:
      return json.dumps(value).encode()
    key = rng.choice(list(keys))
    if not isinstance(node[key], dict | list) or rng.random() < 0.3:
      node[key] = rng.choice(_VALUES)
      return json.dumps(value).encode()
    node = node[key]


def _load_folder(folder):
  source = hf_weights.Source(str(folder))
  tensor_checks.check_shapes(source)
  source.check_head()
  for name in list(source.shapes)[:3]:
    tensor_checks.check_finite(source.read(name), f'{source.file}: {name}')


def _load_tokenizer(folder):
  tokenizers.load(f'hf:{folder}').encode('some <end_of_turn> text')


def _load_gguf(folder):
  tokenizers.load(f'gguf:{folder}/{_PARTS[1]}').encode('text')
  gguf_weights.Source(f'{folder}/{_PARTS[0]}').read('token_embd.weight')


def _write_split_gguf(path):
  writer = gguf.GGUFWriter(path, 'gemma3', split_max_tensors=1)
  writer.add_block_count(1)
  for key in ('embedding_length', 'feed_forward_length', 'context_length'):
    writer.add_uint32(f'gemma3.{key}', 32)
  for key in ('head_count', 'head_count_kv', 'key_length', 'sliding_window'):
    writer.add_uint32(f'gemma3.attention.{key}', 1)
  writer.add_layer_norm_rms_eps(1e-6)
  writer.add_rope_freq_base(1e6)
  words, scores, kinds = zip(*tokenizers.load('bytes').pieces, strict=True)
  writer.add_tokenizer_model('llama')
  writer.add_token_list(list(words))
  writer.add_token_scores(list(scores))
  writer.add_token_types(list(kinds))
  for name, i in (('bos', 2), ('eos', 1), ('unknown', 3), ('padding', 0)):
    writer.add_uint32(f'tokenizer.ggml.{name}_token_id', i)
  writer.add_tensor('token_embd.weight', np.zeros((264, 32), np.float32))
  writer.add_tensor('output_norm.weight', np.zeros(32, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@pytest.mark.parametrize('kind', ['folder', 'tokenizer', 'gguf'])
def test_damaged_files_load_or_are_named(kind, seed, tmp_path):
  print(f'KD_FUZZ_SEED={seed}')
  rng = random.Random(f'{seed} {kind}')
  folder = tmp_path / 'model'
  shutil.copytree(_TEACHER, folder)
  _write_split_gguf(folder / 'model.gguf')
  load, files = {
    'folder': (_load_folder, ['config.json', 'model.safetensors']),
    'tokenizer': (
      _load_tokenizer,
      ['tokenizer.json', 'tokenizer_config.json', 'tokenizer.model'],
    ),
    'gguf': (_load_gguf, list(_PARTS)),
  }[kind]
  whole = {name: (folder / name).read_bytes() for name in files}
  end, tried, refused = time.monotonic() + _SECONDS, 0, 0
  while time.monotonic() < end:
    name = rng.choice(files)
    if kind == 'tokenizer' and rng.random() < 0.5:
      name = 'tokenizer.json'
      (folder / tokenizers.MODEL_FILE).unlink(missing_ok=True)
    is_json = name.endswith('.json') and rng.random() < 0.7
    (folder / name).write_bytes(
      (_json if is_json else _bytes)(rng, whole[name])
    )
    start, tried = time.monotonic(), tried + 1
    try:
      load(folder)
    except errors.KdError as e:
      refused += 1
      assert str(folder) in str(e), f'seed {seed}, {name}: {e}'
      assert len(str(e)) < 3000, f'seed {seed}, {name}: {len(str(e))}'
    except BaseException as e:
      raise AssertionError(f'seed {seed}, try {tried}, {name}: {e!r}') from e
    assert time.monotonic() - start < 10, f'seed {seed}, {name}: slow'
    for restored, raw in whole.items():
      (folder / restored).write_bytes(raw)
  print(f'{kind}: {tried} files tried, {refused} refused')
  assert 0 < refused < tried
