"""Tests that randomly damaged model files load, or the error names the file."""

import os
import shutil

import gguf
import numpy as np
import pytest

from kd.checkpoints import gguf_weights
from kd.checkpoints import hf_weights
from kd.checkpoints import tensor_checks
from kd.input_pipeline import tokenizers
from kd.input_pipeline import trained_byte_level
from tests import damage

_TEACHER = os.path.join(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
  *('data', 'fixtures', 'quickstart_teacher'),
)
_PARTS = ('model-00001-of-00002.gguf', 'model-00002-of-00002.gguf')
_SECONDS = 5


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
def test_damaged_files_load_or_are_refused_by_name(kind, tmp_path):
  load, files = {
    'folder': (_load_folder, ['config.json', 'model.safetensors']),
    'tokenizer': (
      _load_tokenizer,
      [
        'tokenizer.json',
        'tokenizer_config.json',
        'tokenizer.model',
      ],
    ),
    'gguf': (_load_gguf, list(_PARTS)),
  }[kind]
  folder = tmp_path / 'model'
  folder.mkdir()
  _write_split_gguf(folder / 'model.gguf')
  for file in set(os.listdir(folder)) - set(files):
    (folder / file).unlink()
  for file in set(files) & set(os.listdir(_TEACHER)):
    shutil.copy(os.path.join(_TEACHER, file), folder)

  def prepare(rng):
    # Without tokenizer.model, tokenizer.json is read.
    if kind == 'tokenizer' and rng.random() < 0.5:
      (folder / 'tokenizer.model').unlink()

  damage.fuzz(
    kind, damage.seed(), folder, lambda: load(folder), _SECONDS, prepare=prepare
  )


def test_damaged_byte_level_tokenizers_load_or_are_refused(tmp_path):
  folder = tmp_path / 'model'
  folder.mkdir()
  spec = trained_byte_level.write(folder)
  (folder / 'generation_config.json').write_text('{"eos_token_id": [602]}')

  def load():
    tokenizer = tokenizers.load(spec)
    ids, _ = tokenizer.encode_with_offsets('some <|im_end|> te\u0301xt')
    tokenizer.decode(ids)

  damage.fuzz('byte-level', damage.seed(), folder, load, 2 * _SECONDS)
