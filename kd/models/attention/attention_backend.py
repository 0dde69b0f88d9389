"""Chooses the kernel that computes attention within rows."""

import dataclasses

from kd.core import errors
from kd.models import family
from kd.models.attention import attention
from kd.models.attention import cudnn
from kd.models.attention import splash

XLA = attention.XLA
SPLASH = attention.SPLASH
CUDNN = attention.CUDNN
# Names of `student.attention` and `teacher.attention`.
NAMES = ('auto', XLA, SPLASH, CUDNN)


@dataclasses.dataclass(frozen=True)
class Place:
  """The devices and rows that attention is computed for.

  Attributes:
    platform: platform of the devices: 'cpu', 'gpu', 'tpu'.
    capability: a GPU's compute capability, such as 9.0; 0 for other devices.
    packed: whether a row may contain several texts.
    length_shards: number of shards of a row over devices.
  """

  platform: str
  capability: float
  packed: bool
  length_shards: int


def choose(
  name: str,
  config: family.Config,
  dtype: str,
  place: Place,
  path: str,
) -> str:
  """Returns the kernel for a config's `attention`.

  'auto' is splash on a TPU, cuDNN on a GPU, and XLA if these cannot compute it.

  Args:
    name: one of NAMES.
    config: the model.
    dtype: data type of its activations.
    place: the devices and rows.
    path: the field's config path ('student.attention').

  Returns:
    One of NAMES, except 'auto'.

  Raises:
    ConfigError: the name is unknown, or the kernel cannot compute it here.
  """
  if name not in NAMES:
    raise errors.unknown(path, 'kernel', name, NAMES)
  reasons = {
    XLA: None,
    SPLASH: _against_images(config) or _against_splash(config, place),
    CUDNN: _against_images(config) or _against_cudnn(config, dtype, place),
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


def _against_images(config):
  """Returns why a kernel with a causal mask cannot be used, or None."""
  if config.vision is None:
    return None
  return 'which does not support bidirectional attention within images'


def _against_splash(config, place):
  """Returns why splash cannot be used here, or None."""
  if place.platform != 'tpu':
    return f'which runs only on TPUs, but the platform is {place.platform}'
  if not splash.suits(config.head_dim):
    return (
      'which needs a head width that is a multiple of 128, not '
      f'{config.head_dim}'
    )
  return None


def _against_cudnn(config, dtype, place):
  """Returns why cuDNN cannot be used here, or None."""
  if place.platform != 'gpu':
    return f'which runs only on GPUs, but the platform is {place.platform}'
  if place.packed:
    return 'which cannot keep packed texts apart (data.pack)'
  if place.length_shards > 1:
    return 'which needs whole rows on each device (mesh.sequence)'
  if dtype != 'bfloat16':
    return f'which needs activations in bfloat16, not {dtype}'
  widest = cudnn.widest_head(place.capability)
  if config.head_dim > widest or config.head_dim % 8:
    return (
      f'which on these GPUs needs a head width of at most {widest} that is a '
      f'multiple of 8, not {config.head_dim}'
    )
  return None
