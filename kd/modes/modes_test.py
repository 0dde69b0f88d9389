"""Every mode is found by its file, and only by that."""

import inspect
import subprocess
import sys

from kd import modes

_NAMES = {
  *('benchmark', 'board', 'cache', 'chat', 'check', 'data', 'deploy'),
  *('doctor', 'eval', 'export', 'generate', 'plan', 'prune', 'reason'),
  *('registry', 'runs', 'search', 'serve', 'train', 'verify'),
}


def test_each_module_is_a_mode_with_help():
  assert set(modes.all_modes()) == _NAMES
  for name, mode in modes.all_modes().items():
    assert mode.help.endswith('.') and len(mode.help) <= 80, name
    expected = ['config', 'workdir', *(['arguments'] if mode.arguments else [])]
    parameters = inspect.signature(modes.load(name)).parameters
    assert list(parameters) == expected, name


def test_help_imports_no_mode():
  code = (
    'import sys; from kd import modes; modes.all_modes(); '
    'print([m for m in sys.modules if m.startswith("kd.modes.")], '
    '"jax" in sys.modules)'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout == '[] False\n'
