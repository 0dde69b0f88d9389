"""Tests docs/quantization.md's commands, with a quantized teacher."""

import jax
import numpy as np
import pytest

from kd.checkpoints import weights
from kd.config import base
from kd.core import errors
from kd.models import families
from kd.modes import export as export_mode
from kd.modes import train as train_mode
from kd.run import resolve
from kd.run import saved_params
from kd.train.feeds import live
from tests import command
from tests import page_commands

_TRAIN, _EXPORT = page_commands.commands('docs/quantization.md')


def _config(folder, arguments=_TRAIN):
  c, _ = page_commands.parse(arguments)
  c.update(steps=3)
  c.teacher.quantize.weights = 'int4'
  c.losses = dict(kl=base.term('forward_kl'))
  c.data.update(
    mixture='arithmetic_few',
    examples=16,
    length=64,
    batch_size=4,
    folder=str(folder / 'rows'),
  )
  c.optimizer.lr.update(warmup_steps=1)
  c.evaluation.update(every=3, baseline=False, batch_size=8)
  c.evaluation.sets.held_out.update(examples=8, answers=0)
  c.checkpoint.update(every=3)
  c.log.update(tensorboard=False, every=1)
  return c


def test_the_effect_of_quantization_is_reported(tmp_path, capsys):
  with command.compiled_once():
    train_mode.main(_config(tmp_path), str(tmp_path / 'run'))
    run = resolve.resolve(_config(tmp_path), jax.devices())
    (few,), (full,) = live.load(run), live.load_full_precision(run)
  said = 'The quantized teacher differs by '
  (line,) = {x for x in capsys.readouterr().out.splitlines() if said in x}
  kl = float(line.removeprefix(said).partition(' ')[0])
  assert 1e-5 < kl < 1
  assert line in (tmp_path / 'run' / 'report.md').read_text()
  matrices = [x for x in jax.tree.leaves(few.params) if x.dtype == 'int4']
  assert len(matrices) == 7 * 6
  first = lambda params: params['pattern']['layer_0']['mlp']['gate']
  whole, held = np.asarray(first(full.params)), first(few.params)
  values = np.asarray(held['codes'], np.float64) * np.asarray(held['scales'])
  step = np.abs(whole).max(axis=1, keepdims=True) / 7
  assert np.abs(values - whole).max() <= step.max() * 0.51
  trained = saved_params.restore(
    str(tmp_path / 'run'), run.student, 'last', 'workdir'
  )
  with command.compiled_once():
    config = _config(tmp_path, _EXPORT)
    config.export.update(measure=True, gguf_type=('Q4_0', 'Q8_0'))
    export_mode.main(config, str(tmp_path / 'run'))
  file = tmp_path / 'run' / 'export' / 'gguf' / 'model-Q4_0.gguf'
  rows = (file.parent / 'rounding.md').read_text().splitlines()
  cells = [row.split('|')[2:-1] for row in rows if row.startswith('| ')][1:]
  # The weights are already on the lattice of the first type.
  assert all(before == trained_in for before, trained_in, _ in cells)
  assert any(before != other for before, _, other in cells)
  size = weights.model_config(f'gguf:{file}', 'file')
  module = families.build(size, 'float32', 'none', 'student')
  written = weights.load(f'gguf:{file}', module, None, (), 'float32', 'file')
  rounded = jax.jit(run.student.module.plain_params)(trained)
  np.testing.assert_array_equal(
    written['embedding'], rounded['embedding'][: size.vocab_size]
  )


@pytest.mark.parametrize(
  ('changes', 'field', 'text'),
  [
    ({'weights': 'int4_128'}, 'weights', '64 inputs, not a multiple of 128'),
    (
      {'rules': {'a': dict(match='layers[.]9', scheme='int8')}},
      'rules.a.match',
      'matches no matrix',
    ),
    (
      {'rules': {'a': dict(match='head', scheme='int8')}},
      'rules.a.match',
      'matches no matrix',
    ),
  ],
)
def test_rules_are_checked(changes, field, text, tmp_path):
  c = _config(tmp_path)
  for name, value in changes.items():
    c.student.quantize[name] = value
  with pytest.raises(errors.ConfigError) as e:
    resolve.resolve(c, jax.devices())
  assert e.value.path == f'student.quantize.{field}'
  assert text in str(e.value)
