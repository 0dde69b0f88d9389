"""The benchmarks at tiny sizes, without peers."""

import dataclasses
import json
import sys

from absl import app
import jax
import numpy as np
import pytest

from benchmarks import alternate
from benchmarks import cache_cpu
from benchmarks import compile_tpu
from benchmarks import environments
from benchmarks import generate_cpu
from benchmarks import objective_tpu
from benchmarks import programs
from benchmarks import results
from benchmarks import step_cpu
from benchmarks import step_real_cpu
from kd.checkpoints import huggingface
from kd.config import variants
from kd.models import attention
from kd.models import gemma3
from kd.models import gemma3_config
from kd.planning import flops

_MODEL = gemma3_config.from_variant('nano', variants.VARIANTS, '').keep_layers(
  (4, 5)
)


def _check(result, tokens):
  """What every step's result says, and that it is one line of JSON."""
  ours = result['programs']['ours']
  assert ours['step_s'] * ours['tokens_per_s'] == pytest.approx(tokens)
  assert 100 < ours['peak_mib'] < 4000
  count = gemma3_config.parameter_count(_MODEL)
  assert result['parameters'] == {'student': count, 'teacher': count}
  reached = sum(result['step_gflop']['ours'].values()) / ours['step_s']
  share = reached / result['limit_gflop_per_s']
  assert result['limit_share'] == pytest.approx(share)


def test_step_cpu(capsys):
  result = step_cpu.run(_MODEL, _MODEL, 2, 32, 64, peers=(), rounds=2)
  _check(result, tokens=64)
  assert set(result['programs']) == {'ours', 'ours_selective'}
  # 31 of 32 positions have a target, and 8 of them are kept.
  whole, kept = (g['objective'] for g in result['step_gflop'].values())
  assert kept / whole == pytest.approx(8 / 31)
  results.show(result)
  (line,) = capsys.readouterr().out.splitlines()
  assert json.loads(line)['benchmark'] == 'step_cpu'


def test_step_real_cpu(tmp_path):
  model = gemma3.build(_MODEL, 'float32', 'none', '')
  params = programs.random_params(model, 0)
  folder = str(tmp_path / 'hf')
  huggingface.write(
    folder, params, _MODEL, 'float32', 2, (1,), 0, lambda new: None
  )
  result = step_real_cpu.run(folder, list(range(3, 35)), 64, (), rounds=1)
  _check(result, tokens=32)
  assert set(result['programs']) == {'ours'}


def test_generate_cpu():
  prompts = [list(range(3, 11))] * 2
  model = {'model': dataclasses.asdict(_MODEL)}
  found = generate_cpu.run(model, prompts, 4, (), rounds=1, bandwidth_mib=8)
  ours = found['programs']['ours']
  assert ours['step_s'] * ours['tokens_per_s'] == pytest.approx(8)
  moved = 4e-9 * gemma3_config.parameter_count(_MODEL) * 4 / ours['step_s']
  share = moved / found['bandwidth_gb_per_s']
  assert ours['bandwidth_share'] == pytest.approx(share)


@pytest.mark.parametrize(
  'module', [step_cpu, step_real_cpu, generate_cpu, objective_tpu]
)
def test_unknown_arguments_are_refused(module):
  with pytest.raises(app.UsageError, match='surplus'):
    module.main(['program', 'surplus'])


def test_a_program_that_ends_is_named():
  with pytest.raises(RuntimeError, match='benchmarks.matmul ended with 1'):
    alternate.Program(sys.executable, 'benchmarks.matmul', {})


def test_comparison():
  measured = {
    'ours': {'step_s': 2.0, 'peak_mib': 100.0},
    'fast': {'step_s': 3.0, 'peak_mib': 400.0},
    'lean': {'step_s': 4.0, 'peak_mib': 200.0},
  }
  assert alternate.compare(measured, 'ours', ['fast', 'lean']) == {
    'fastest_peer': 'fast',
    'speed_ratio': 1.5,
    'leanest_peer': 'lean',
    'memory_ratio': 0.5,
  }


def test_an_environment_that_is_not_there(monkeypatch):
  monkeypatch.setenv('KD_PEERS_TRL_PYTHON', '/some/python')
  assert environments.python('peers_trl') == '/some/python'
  monkeypatch.delenv('KD_PEERS_TUNIX_PYTHON', raising=False)
  with pytest.raises(RuntimeError, match='make_venv.py requirements_peers_tu'):
    environments.python('peers_tunix')


def test_programs_compute_what_is_on_paper():
  rows, length = 2, 64
  everywhere = {'rule': 'all', 'share': 1.0}
  settings = {'remat': 'block', 'chunk_tokens': 32, 'positions': everywhere}
  devices = np.asarray(jax.devices()[:1])
  step = programs.build(
    _MODEL, _MODEL, 'float32', settings, (rows, length), devices
  )
  parts = flops.step(
    *(_MODEL, [_MODEL], rows, length, 'block', rows * length),
    attention.XLA,
  )
  teacher = parts.pop('teacher')
  paper = {
    'objective': parts['objective'],
    'teacher': teacher,
    'step': sum(parts.values()),
  }
  found = {}
  for name in paper:
    # Chunks are of 16 positions of each row.
    found[name] = compile_tpu.compiled(step, name, trips=4)
    np.testing.assert_allclose(found[name]['flops'], paper[name], rtol=1e-3)
  found['large'] = {'error': 'does not fit'}
  shown = objective_tpu.summary(found, paper)
  assert shown['large'] == {'error': 'does not fit'}
  assert shown['step']['flops_to_paper'] == pytest.approx(1, rel=1e-3)
  count = gemma3_config.parameter_count(_MODEL)
  embedding = _MODEL.vocab_size * _MODEL.embed_dim
  assert step.teacher_bytes_beside() == 4 * (count - embedding)
  state = count * 3 * 4
  assert shown['step']['aliased'] * 2**30 == pytest.approx(state, rel=0.01)


def test_cases_of_tpus():
  found = objective_tpu.cases([2048, 8192], large=True)
  assert [c['topology'] for c in found] == ['v5e:2x4', 'v5e:2x4', 'v5e:4x4']
  paper = objective_tpu.on_paper(found[0], rows=8)
  # 3 products of the student's logits and 1 of the teacher's.
  widths = 3 * 1152 + 2560
  assert paper['objective'] == 2 * 8 * 2048 * 262144 * widths


def test_cache_cpu():
  found = cache_cpu.run(_MODEL, _MODEL, examples=90, steps=2, rounds=1)
  assert set(found['writing_beside_bare']) == {
    *('bare', 'top_k', 'sampled', 'hidden')
  }
  assert set(found['training_tokens_per_s']) == {'none', 'cached', 'live'}
  assert all(rate > 0 for rate in found['writing_tokens_per_s'].values())
  assert 0 <= found['cached_data_wait_share'] < 1
