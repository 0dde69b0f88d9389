"""Which kernel computes attention within rows, and what it computes."""

import dataclasses

from kd.core import errors
from kd.models import attention
from kd.models import cudnn
from kd.models import family
from kd.models import splash

XLA = attention.XLA
SPLASH = attention.SPLASH
CUDNN = attention.CUDNN
# Names of `student.attention` and `teacher.attention`.
NAMES = ('auto', XLA, SPLASH, CUDNN)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where attention is computed, and of what.

  Attributes:
    platform: of the devices: 'cpu', 'gpu', 'tpu'.
    capability: a GPU's compute capability, such as 9.0; 0 of other devices.
    packed: whether a row may hold several texts.
    length_parts: into how many parts rows are split.
  """

  platform: str
  capability: float
  packed: bool
  length_parts: int


def choose(
  name: str,
  config: family.Config,
  dtype: str,
  place: Place,
  path: str,
) -> str:
  """The kernel that a config's `attention` means.

  'auto' is splash on a TPU, cuDNN on a GPU, and XLA wherever these cannot do
  what is asked.

  Args:
    name: one of NAMES.
    config: the model.
    dtype: of its activations.
    place: where it runs.
    path: the field's config path ('student.attention').

  Returns:
    One of NAMES but 'auto'.

  Raises:
    ConfigError: the name is unknown, or that kernel cannot do what is asked.
  """
  if name not in NAMES:
    raise errors.unknown(path, 'kernel', name, NAMES)
  reasons = {
    XLA: None,
    SPLASH: _against_splash(config, place),
    CUDNN: _against_cudnn(config, dtype, place),
  }
  if name == 'auto':
    return next(k for k in (SPLASH, CUDNN, XLA) if reasons[k] is None)
  if reasons[name] is not None:
    raise errors.ConfigError(
      path,
      f'found {name!r}, {reasons[name]}',
      legal=', '.join(
        repr(k) for k in NAMES if k == 'auto' or reasons[k] is None
      ),
    )
  return name


def _against_splash(config, place):
  """Why splash cannot be used here, or None."""
  if place.platform != 'tpu':
    return f'which runs on TPUs alone, and the devices are {place.platform}s'
  if not splash.suits(config.head_dim):
    return f'which needs heads as wide as 128 or 256, not {config.head_dim}'
  return None


def _against_cudnn(config, dtype, place):
  """Why cuDNN cannot be used here, or None."""
  if place.platform != 'gpu':
    return f'which runs on GPUs alone, and the devices are {place.platform}s'
  if place.packed:
    return 'which cannot keep packed texts apart (data.pack)'
  if place.length_parts > 1:
    return 'which needs whole rows on each device (mesh.sequence)'
  if dtype != 'bfloat16':
    return f'which needs activations in bfloat16, not {dtype}'
  widest = cudnn.widest_head(place.capability)
  if config.head_dim > widest or config.head_dim % 8:
    return (
      f'which on these GPUs needs heads of up to {widest}, a multiple of 8, '
      f'not {config.head_dim}'
    )
  return None
