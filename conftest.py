"""What every test process shares, with Bazel and without."""

import gc
import os

import pytest

# Before the first import of JAX or TensorFlow in this process. A setting from
# outside wins, so that the same tests can run on an accelerator.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# Compiling takes longer than what is compiled. Flags from outside win.
_CHEAP = (
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
  '--xla_cpu_use_fusion_emitters=false',
  '--xla_cpu_parallel_codegen_split_count=1',
)
if os.environ['JAX_PLATFORMS'] == 'cpu':
  os.environ['XLA_FLAGS'] = ' '.join((*_CHEAP, os.environ.get('XLA_FLAGS', '')))

_DEVICES = '--xla_force_host_platform_device_count'
_NEEDS = {
  '_oracle_test.py': (
    'KD_ORACLES_PYTHON' in os.environ,
    'set KD_ORACLES_PYTHON: KD_ORACLES_PYTHON=$(python tools/make_venv.py '
    'requirements_oracles.lock ~/.cache/kd/venvs '
    '--source_only=rouge-score --source_only=sqlitedict '
    '--source_only=word2number --unhashed=requirements_torch.in) pytest',
  ),
  '_devices_test.py': (
    _DEVICES in os.environ.get('XLA_FLAGS', ''),
    f'in a process of their own: XLA_FLAGS={_DEVICES}=8 pytest $(git ls-files '
    "'*_devices_test.py')",
  ),
}


def pytest_collection_modifyitems(items):
  """Skips, and says how to run, the tests whose environment is not there."""
  for item in items:
    for ending, (present, command) in _NEEDS.items():
      if item.path.name.endswith(ending) and not present:
        item.add_marker(pytest.mark.skip(reason=command))


def pytest_collection_finish():
  """Excludes imported objects from garbage collection, and collects rarely.

  Tracing allocates many objects, so that the default threshold of 700 costs a
  few percent of the CPU time.
  """
  gc.freeze()
  gc.set_threshold(100_000)
