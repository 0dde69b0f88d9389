"""kd distils large language models into small ones.

The packages kd.configs and kd.data are the folders configs/ and data/: next to
this one in a checkout, in it once the wheel has been installed, which brings
one top-level package only. Both have these names in both places, so a config or
a module of tasks imports the same wherever it runs.

kd.library has what is called from Python; its names are those of this package
too, imported when they are first used: `import kd` costs nothing.
"""

import importlib
import os
import re
import typing

if typing.TYPE_CHECKING:
  from kd.library import benchmark as benchmark
  from kd.library import distill as distill
  from kd.library import Distilled as Distilled
  from kd.library import get_config as get_config
  from kd.library import load as load
  from kd.library import Model as Model
  from kd.library import plan as plan
  from kd.library import Score as Score

__version__ = '0.1.0'

# Where Python looks for modules of this package: also in the checkout.
if not os.path.isdir(os.path.join(__path__[0], 'configs')):
  __path__.append(os.path.dirname(__path__[0]))

# C++ logging that TensorFlow shares with other libraries reads this once, when
# the first of them is loaded: only here is early enough.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# XLA gives a CPU's devices one pool of as many threads as there are cores or
# devices. A collective that waits holds its thread, so with several in flight
# the last device of one may find no thread, and XLA aborts the process.
_devices = re.search(
  r'--xla_force_host_platform_device_count=(\d+)',
  os.environ.get('XLA_FLAGS', ''),
)
if _devices:
  os.environ.setdefault('PJRT_NPROC', str(8 * int(_devices[1])))

_LIBRARY = ('Distilled', 'Model', 'Score')
_LIBRARY += ('benchmark', 'distill', 'get_config', 'load', 'plan')


def __getattr__(name: str) -> typing.Any:
  if name in _LIBRARY:
    return getattr(importlib.import_module('kd.library'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *_LIBRARY})
