"""Tests --mode=export as shown in docs/export.md."""

import contextlib
import dataclasses
import os
import pathlib

import gguf
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from kd.checkpoints import huggingface
from kd.config import command_line
from kd.core import errors
from kd.input_pipeline import file_digests
from kd.input_pipeline import hf_tokenizer
from kd.input_pipeline import tokenizers
from kd.input_pipeline import work_folders
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


def test_commands_on_the_page_write_and_verify_files(exported):
  folder = exported / 'export'
  files = sorted(path.name for path in (folder / 'gguf').iterdir())
  models = ['model-F32.gguf', 'model-Q4_0.gguf']
  claims = [f'{name}.provenance.json' for name in models]
  assert files == sorted(['NOTICE', *models, *claims])
  weights = safetensors_numpy.load_file(
    pathlib.Path('data/fixtures/quickstart_teacher/model.safetensors')
  )
  tensors = {
    t.name: t for t in gguf.GGUFReader(folder / 'gguf' / models[1]).tensors
  }
  assert tensors['token_embd.weight'].tensor_type.name == 'Q8_0'
  assert tensors['blk.2.ffn_up.weight'].tensor_type.name == 'Q4_0'
  tensors = {
    t.name: t.data for t in gguf.GGUFReader(folder / 'gguf' / models[0]).tensors
  }
  for name, hf in (
    ('token_embd.weight', 'model.embed_tokens.weight'),
    ('blk.5.ffn_down.weight', 'model.layers.5.mlp.down_proj.weight'),
  ):
    array = weights[hf].astype(np.float32)
    np.testing.assert_array_equal(tensors[name], array[: len(tensors[name])])


@contextlib.contextmanager
def _umask(value):
  old = os.umask(value)
  try:
    yield
  finally:
    os.umask(old)


def _write_folder(folder, **changes):
  """Writes a tiny model of zeros as a Hugging Face folder."""
  config = dataclasses.replace(families.variant('tiny', 'variant'), **changes)
  model = families.build(config, 'float32', 'none', 'student')
  params = jax.tree.map(lambda x: np.zeros(x.shape), model.abstract_params())
  tokenizer = tokenizers.load('bytes')
  write = lambda new: hf_tokenizer.write(tokenizer, new, '')
  huggingface.write(folder, params, config, 'float32', 2, [1], 0, write)


def test_file_permissions_follow_the_umask(tmp_path):
  data = tmp_path / 'large'
  data.write_bytes(bytes(9 << 20))
  os.utime(data, (0, 0))
  with _umask(0o027):
    file_digests.Digests(str(tmp_path / 'digests')).get(str(data))
    _write_folder(str(tmp_path / 'hf'))
    with work_folders.work_folder(str(tmp_path), 'rows') as (rows, _):
      pass
  for path in (tmp_path / 'hf', pathlib.Path(rows)):
    assert path.stat().st_mode & 0o777 == 0o750
  files = [*(tmp_path / 'hf').iterdir(), tmp_path / 'digests' / 'digests.json']
  assert len(files) == 8
  for path in files:
    assert path.stat().st_mode & 0o777 == 0o640, path


def test_unloadable_exports_are_refused_before_writing(tmp_path):
  folder = str(tmp_path / 'hf')
  _write_folder(folder, mlp_dim=48)
  config = command_line.load('configs/quickstart.py')
  config.student.update(init=f'hf:{folder}', variant='')
  config.export.formats = ('hf', 'gguf')
  with pytest.raises(errors.ConfigError, match='ffn_down.* has rows of 48'):
    export_mode.main(config, str(tmp_path / 'workdir'))
  assert not (tmp_path / 'workdir').exists()
