"""--mode=export as docs/export.md shows it."""

import dataclasses
import pathlib

import gguf
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from kd.checkpoints import huggingface
from kd.config import command_line
from kd.core import errors
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.modes import export as export_mode
from tests import command
from tests import page_commands

_PAGE = 'docs/export.md'


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """The workdir after the page's commands."""
  workdir = tmp_path_factory.mktemp('export') / 'kd-export'
  for arguments in page_commands.commands(_PAGE):
    arguments = [a.replace('=kd-export', f'={workdir}') for a in arguments]
    code, _, err = command.run(arguments)
    assert code == 0, err
  return workdir


def test_the_page_s_commands_write_the_files(exported):
  folder = exported / 'export'
  files = sorted(path.name for path in (folder / 'gguf').iterdir())
  assert files == ['model-F32.gguf', 'model-Q4_0.gguf']
  weights = safetensors_numpy.load_file(
    pathlib.Path('data/fixtures/quickstart_teacher/model.safetensors')
  )
  tensors = {
    t.name: t for t in gguf.GGUFReader(folder / 'gguf' / files[1]).tensors
  }
  assert tensors['token_embd.weight'].tensor_type.name == 'Q8_0'
  assert tensors['blk.2.ffn_up.weight'].tensor_type.name == 'Q4_0'
  tensors = {
    t.name: t.data for t in gguf.GGUFReader(folder / 'gguf' / files[0]).tensors
  }
  for name, hf in (
    ('token_embd.weight', 'model.embed_tokens.weight'),
    ('blk.5.ffn_down.weight', 'model.layers.5.mlp.down_proj.weight'),
  ):
    array = weights[hf].astype(np.float32)
    np.testing.assert_array_equal(tensors[name], array[: len(tensors[name])])


def test_what_cannot_be_loaded_is_refused_before_anything_is_written(tmp_path):
  variant = families.variant('tiny', 'variant')
  model = families.build(
    dataclasses.replace(variant, mlp_dim=48), 'float32', 'none', 'student'
  )
  params = jax.tree.map(lambda x: np.zeros(x.shape), model.abstract_params())
  folder, tokenizer = str(tmp_path / 'hf'), tokenizers.load('bytes')
  write = lambda new: hf_tokenizer.write(tokenizer, new, '')
  huggingface.write(folder, params, model.config, 'float32', 2, [1], 0, write)
  config = command_line.load('configs/quickstart.py')
  config.student.update(init=f'hf:{folder}', variant='')
  config.export.formats = ('hf', 'gguf')
  with pytest.raises(errors.ConfigError, match='ffn_down.* has rows of 48'):
    export_mode.main(config, str(tmp_path / 'workdir'))
  assert not (tmp_path / 'workdir').exists()
