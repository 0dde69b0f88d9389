"""kd distills large language models into small ones.

The packages kd.configs and kd.data are the folders configs/ and data/. They are
next to this folder in a checkout and inside it in an installed wheel, which has
only one top-level package. The names are the same in both places, so a config
or a module of tasks can import them wherever it runs.

kd.library is the Python API. This package exports its names and imports them on
first use, so `import kd` costs nothing.
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

# In a checkout, also look for submodules in the parent folder.
if not os.path.isdir(os.path.join(__path__[0], 'configs')):
  __path__.append(os.path.dirname(__path__[0]))

# The C++ logging that TensorFlow shares with other libraries reads this once,
# when the first of them is loaded, so it must be set here.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# All CPU devices of XLA share one pool with one thread per core or device. A
# waiting collective holds its thread, so with several in flight the last device
# of one may get no thread, and XLA aborts the process.
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
