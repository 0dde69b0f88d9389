"""Lists the peak figures of TPU chips and the available slices."""

from collections.abc import Mapping
import dataclasses
import math
import re

from kd.core import errors

_PATH = 'plan.topology'
_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBIC = (
  *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4'),
  *('4x4x8', '4x8x8', '8x8x8', '8x8x16', '8x16x16'),
)
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A TPU generation. All figures are per chip.

  Attributes:
    flops: peak bfloat16 operations per second.
    hbm_bytes: HBM available to programs, without what the runtime reserves. The
      compiler reports it when a program does not fit.
    hbm_bandwidth: bytes per second between HBM and the chip.
    ici_bandwidth: bytes per second received over all links to other chips; the
      same number can be sent at the same time.
    host_bandwidth: bytes per second from the host's memory, over PCIe
      (https://jax-ml.github.io/scaling-book/tpus).
    shapes: available slices, as chips along each axis.
    device_kinds: values of device_kind in JAX.
    accelerator: prefix of Cloud's accelerator types, as in v5litepod-16.
    cores_named: TensorCores per chip in the number of an accelerator type:
      v5p-16 has 8 chips, v5litepod-16 has 16.
    compiler_options: options that make libtpu show one device per chip.
    source: URL of the published figures.
  """

  flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  host_bandwidth: float
  shapes: tuple[str, ...]
  device_kinds: tuple[str, ...]
  accelerator: str
  cores_named: int
  compiler_options: Mapping[str, str]
  source: str


# ICI bandwidth is published as the sum of both directions, or in bits.
CHIPS = {
  'v4': Chip(
    flops=275e12,
    hbm_bytes=int(30.75 * _GIB),
    hbm_bandwidth=1200e9,
    ici_bandwidth=2400e9 / 8,
    host_bandwidth=16e9,
    shapes=_CUBIC,
    device_kinds=('TPU v4',),
    accelerator='v4',
    cores_named=2,
    compiler_options={'chip_config_name': 'megacore'},
    source='https://cloud.google.com/tpu/docs/v4',
  ),
  'v5e': Chip(
    flops=197e12,
    hbm_bytes=int(15.75 * _GIB),
    hbm_bandwidth=819e9,
    ici_bandwidth=400e9 / 2,
    host_bandwidth=16e9,
    shapes=_FLAT,
    device_kinds=('TPU v5 lite', 'TPU v5e'),
    accelerator='v5litepod',
    cores_named=1,
    compiler_options={},
    source='https://cloud.google.com/tpu/docs/v5e',
  ),
  'v5p': Chip(
    flops=459e12,
    hbm_bytes=int(95.73 * _GIB),
    hbm_bandwidth=2765e9,
    ici_bandwidth=1200e9 / 2,
    host_bandwidth=16e9,
    shapes=_CUBIC,
    device_kinds=('TPU v5', 'TPU v5p'),
    accelerator='v5p',
    cores_named=2,
    compiler_options={},
    source='https://cloud.google.com/tpu/docs/v5p',
  ),
  'v6e': Chip(
    flops=918e12,
    hbm_bytes=int(31.24 * _GIB),
    hbm_bandwidth=1640e9,
    ici_bandwidth=800e9 / 2,
    host_bandwidth=32e9,
    shapes=_FLAT,
    device_kinds=('TPU v6 lite', 'TPU v6e'),
    accelerator='v6e',
    cores_named=1,
    compiler_options={},
    source='https://cloud.google.com/tpu/docs/v6e',
  ),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A TPU slice: the chips that a program runs on.

  Attributes:
    name: generation and shape, such as 'v5e:4x4'.
    generation: a key of CHIPS.
    count: number of chips.
  """

  name: str
  generation: str
  count: int

  @property
  def chip(self) -> Chip:
    return CHIPS[self.generation]

  @property
  def accelerator_type(self) -> str:
    """Returns the name in Cloud's API, such as 'v5litepod-16'."""
    cores = self.count * self.chip.cores_named
    return f'{self.chip.accelerator}-{cores}'


def names() -> list[str]:
  """Returns the name of every slice."""
  return [f'{g}:{shape}' for g, chip in CHIPS.items() for shape in chip.shapes]


def _count(shape):
  return math.prod(int(n) for n in shape.split('x'))


def _slice(name):
  generation, _, shape = name.partition(':')
  return Slice(name, generation, _count(shape))


def _by_accelerator_type():
  """Returns every slice by Cloud's accelerator type; v5e also as 'v5e-16'."""
  slices = [_slice(name) for name in names()]
  short = {f'v5e-{s.count}': s for s in slices if s.generation == 'v5e'}
  return short | {s.accelerator_type: s for s in slices}


def of_devices(kind: str, count: int) -> Slice | None:
  """Returns the slice that consists of the given devices.

  Args:
    kind: the devices' device_kind in JAX.
    count: number of devices, one per chip.

  Returns:
    The slice; its name is '' if Cloud offers no slice of this size. None for
    devices that are not in CHIPS.
  """
  for generation, chip in CHIPS.items():
    if kind in chip.device_kinds:
      slices = [_slice(f'{generation}:{shape}') for shape in chip.shapes]
      same = (s for s in slices if s.count == count)
      return next(same, Slice('', generation, count))
  return None


def _nearest(name):
  """Returns the most similar name: v5e:4x4 for v5e:4x3."""
  types = _by_accelerator_type()
  match = re.fullmatch(r'(v\d\w*)([:-])(\d+(?:x\d+)*)', name)
  if not match:
    return errors.nearest(name, names())
  generation, separator, size = match.groups()
  if separator == '-':
    size_of = {t: int(t.rpartition('-')[2]) for t in types}
  else:
    size_of = {n: _count(n.partition(':')[2]) for n in names()}
  same = [n for n in size_of if n.startswith(generation + separator)]
  if not same:
    return errors.nearest(name, list(size_of))
  distance = lambda n: abs(math.log(size_of[n] / max(_count(size), 1)))
  return min(same, key=distance)


def parse(name: str) -> Slice:
  """Returns the slice with a given name.

  Args:
    name: generation and shape ('v5e:2x4'), or the accelerator type of Cloud
      ('v5litepod-8').

  Raises:
    ConfigError: there is no such slice.
  """
  if not name:
    raise errors.ConfigError(
      _PATH, 'not given', legal='a slice such as v5e:4x4 or v5litepod-16'
    )
  if name in names():
    return _slice(name)
  types = _by_accelerator_type()
  if name in types:
    return types[name]
  generation = re.split('[:-]', name)[0]
  legal = [
    n for n in (*names(), *types) if re.split('[:-]', n)[0] == generation
  ]
  if not legal:
    legal = [
      f'{", ".join(CHIPS)}, then a colon and a shape, as in v5e:4x4',
      'or an accelerator type, as in v5litepod-16',
    ]
  raise errors.ConfigError(
    _PATH, f'found {name!r}', legal=', '.join(legal), nearest=_nearest(name)
  )
