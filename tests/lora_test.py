"""A student with adapters: trained, resumed and exported, end to end."""

import json

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from configs import quickstart
from kd.config import base
from kd.modes import export as export_mode
from kd.modes import train as train_mode
from kd.run import load_params
from kd.run import resolve
from tests import command


def _config(folder, steps):
  c = quickstart.get_config()
  c.update(steps=steps)
  c.student.lora.update(
    rank=2,
    alpha=4.0,
    targets=('q_proj', 'down_proj'),
    base_scheme='int4',
    base_dtype='float32',
  )
  c.teacher.update(source='none', init='')
  c.losses = dict(ce=base.term('cross_entropy'))
  c.data.update(
    mixture='arithmetic_few',
    tokenizer='bytes',
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
    train_mode.main(_config(folder, 4), str(folder / 'whole'))
    train_mode.main(_config(folder, 2), str(folder / 'parts'))
    train_mode.main(_config(folder, 4), str(folder / 'parts'))
  return folder


def _params(folder, name):
  run = resolve.resolve(_config(folder, 4), jax.devices())
  first = load_params.load(run.student, run.config.seed, 'student.init', None)
  last = load_params.restore(str(folder / name), run.student, 'last', 'workdir')
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
  nll = [
    m['eval/held_out/nll']
    for m in command.metrics(str(runs / 'whole'))
    if m['phase'] == 'eval'
  ]
  assert nll[-1] < nll[0]


def test_exported_adapters_and_base_are_the_merged_model(runs):
  c = _config(runs, 4)
  c.export.update(formats=('hf', 'peft'), dtype='float32')
  export_mode.main(c, str(runs / 'whole'))
  read = lambda *names: safetensors.load_file(
    str(runs.joinpath('whole', 'export', *names))
  )
  merged = read('hf', 'model.safetensors')
  expected = read('peft_base', 'model.safetensors')
  adapters = read('peft', 'adapter_model.safetensors')
  file = runs / 'whole' / 'export' / 'peft' / 'adapter_config.json'
  config = json.loads(file.read_text())
  assert config['base_model_name_or_path'].endswith('export/peft_base')
  prefix, end = 'base_model.model.', '.lora_A.weight'
  for name, a in adapters.items():
    if name.endswith(end):
      site = name.removesuffix(end)
      b = adapters[f'{site}.lora_B.weight'].astype(np.float64)
      change = config['lora_alpha'] / config['r'] * (b @ a)
      expected[f'{site.removeprefix(prefix)}.weight'] += change
  assert merged.keys() == expected.keys()
  assert len(adapters) == 2 * 2 * 6  # Two of each matrix, two matrices a layer.
  for name, array in merged.items():
    np.testing.assert_allclose(array, expected[name], atol=1e-6, err_msg=name)
