"""Tests docs/lora.md's commands: adapters are trained, resumed and exported."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kd.models import families
from kd.models import tensors
from kd.modes import export as export_mode
from kd.modes import train as train_mode
from kd.run import load_params
from kd.run import resolve
from kd.run import saved_params
from tests import command
from tests import page_commands

_TRAIN, _EXPORT = page_commands.commands('docs/lora.md')


def _config(folder, arguments=_TRAIN):
  """Returns the config of a command, with a short run on an int4 base."""
  c, _ = page_commands.parse(arguments)
  c.steps = 4
  # Fewer targets need fewer compiled programs.
  c.student.lora.update(
    base_scheme='int4', base_dtype='float32', targets=('q_proj', 'down_proj')
  )
  c.data.update(
    mixture='arithmetic_few',
    examples=16,
    length=64,
    batch_size=4,
    folder=str(folder / 'rows'),
  )
  c.optimizer.update(micro_batches=2)
  c.optimizer.lr.update(warmup_steps=1, peak=1e-2)
  c.evaluation.update(every=2, baseline=False, batch_size=8)
  c.evaluation.sets.held_out.update(examples=8, answers=0)
  c.checkpoint.update(every=1)
  c.log.update(tensorboard=False, every=1)
  return c


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('lora')
  with command.compiled_once():
    train_mode.main(_config(folder), str(folder / 'whole'))
    shutil.copytree(folder / 'whole', folder / 'parts')
    shutil.rmtree(folder / 'parts' / 'checkpoints' / '4')
    train_mode.main(_config(folder), str(folder / 'parts'))
  return folder


def _params(folder, name):
  run = resolve.resolve(_config(folder), jax.devices())
  first = load_params.load(run.student, run.config.seed, 'student.init', None)
  last = saved_params.restore(
    str(folder / name), run.student, 'last', 'workdir'
  )
  return run, first, last


def test_only_the_adapters_change(runs):
  _, first, last = _params(runs, 'whole')
  changed = jax.tree_util.tree_map_with_path(
    lambda path, x, y: (path[-1].key in 'ab', bool((x != y).any())),
    first,
    last,
  )
  pairs = jax.tree.leaves(changed, is_leaf=lambda x: isinstance(x, tuple))
  assert set(pairs) == {(True, True), (False, False)}


def test_resumed_runs_are_bit_identical(runs):
  _, _, whole = _params(runs, 'whole')
  _, _, parts = _params(runs, 'parts')
  jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_exported_adapters_and_base_are_the_merged_model(runs):
  c = _config(runs, _EXPORT)
  c.export.dtype = 'float32'
  export_mode.main(c, str(runs / 'whole'))
  read = lambda *names: safetensors.load_file(
    str(runs.joinpath('whole', 'export', *names))
  )
  merged = read('hf', 'model.safetensors')
  adapters = read('peft', 'adapter_model.safetensors')
  file = runs / 'whole' / 'export' / 'peft' / 'adapter_config.json'
  config = json.loads(file.read_text())
  base = os.path.abspath('data/fixtures/quickstart_teacher')
  assert os.path.samefile(config['base_model_name_or_path'], base)
  run, first, _ = _params(runs, 'whole')
  # The dequantized base before training.
  module = run.student.module
  plain = module.inner.plain_params(module.base_params(first))
  count = 0
  for tensor in families.of(module.config).tensors(module.config):
    leaf = np.asarray(tensors.leaf(plain, tensor.path))
    array = leaf if tensor.group is None else leaf[tensor.group]
    expected = tensor.to_file(array, tensors.HF).astype(np.float64)
    site = f'base_model.model.{tensor.hf.removesuffix(".weight")}'
    if f'{site}.lora_A.weight' in adapters:
      a, b = (adapters[f'{site}.lora_{k}.weight'] for k in 'AB')
      expected = expected + config['lora_alpha'] / config['r'] * (b @ a)
      count += 1
    np.testing.assert_allclose(merged[tensor.hf], expected, atol=1e-6)
  assert (count, len(adapters)) == (12, 24)
