"""Every mode is found by its file, and only by that."""

import inspect
import subprocess
import sys

from kd import modes

_NAMES = {
  *('cache', 'chat', 'check', 'data', 'eval', 'export', 'generate'),
  *('plan', 'prune', 'reason', 'search', 'train', 'verify'),
}


def test_each_file_is_a_mode_with_help():
  helps = modes.helps()
  assert set(helps) == _NAMES
  for name, text in helps.items():
    assert text.endswith('.') and len(text) <= 80, name
    arguments = inspect.signature(modes.load(name)).parameters
    assert list(arguments) == ['config', 'workdir'], name


def test_help_imports_no_mode():
  code = (
    'import sys; from kd import modes; modes.helps(); '
    'print([m for m in sys.modules if m.startswith("kd.modes.")], '
    '"jax" in sys.modules)'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout == '[] False\n'
