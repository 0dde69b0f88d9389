"""What TPU chips can do, and which slices of them there are."""

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
  """One generation of TPU. All figures are of one chip.

  Attributes:
    flops: peak operations a second, bfloat16.
    hbm_bytes: memory that programs can have: what is built in, less what the
      runtime keeps. The compiler names it when a program does not fit.
    hbm_bandwidth: bytes a second between memory and the chip.
    ici_bandwidth: bytes a second that all links to other chips bring in; as
      many leave at the same time.
    shapes: slices that can be asked for, chips along each axis.
    cores_named: by how many cores a chip the slice's other name counts:
      v5p-16 has 8 chips, v5e-16 has 16.
    compiler_options: what libtpu needs to see one device a chip.
    source: where the figures are published.
  """

  flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  shapes: tuple[str, ...]
  cores_named: int
  compiler_options: Mapping[str, str]
  source: str


# Links' bandwidth is published in both directions together, or in bits.
CHIPS = {
  'v4': Chip(
    flops=275e12,
    hbm_bytes=int(30.75 * _GIB),
    hbm_bandwidth=1200e9,
    ici_bandwidth=2400e9 / 8,
    shapes=_CUBIC,
    cores_named=2,
    compiler_options={'chip_config_name': 'megacore'},
    source='https://cloud.google.com/tpu/docs/v4',
  ),
  'v5e': Chip(
    flops=197e12,
    hbm_bytes=int(15.75 * _GIB),
    hbm_bandwidth=819e9,
    ici_bandwidth=400e9 / 2,
    shapes=_FLAT,
    cores_named=1,
    compiler_options={},
    source='https://cloud.google.com/tpu/docs/v5e',
  ),
  'v5p': Chip(
    flops=459e12,
    hbm_bytes=int(95.73 * _GIB),
    hbm_bandwidth=2765e9,
    ici_bandwidth=1200e9 / 2,
    shapes=_CUBIC,
    cores_named=2,
    compiler_options={},
    source='https://cloud.google.com/tpu/docs/v5p',
  ),
  'v6e': Chip(
    flops=918e12,
    hbm_bytes=int(31.24 * _GIB),
    hbm_bandwidth=1640e9,
    ici_bandwidth=800e9 / 2,
    shapes=_FLAT,
    cores_named=1,
    compiler_options={},
    source='https://cloud.google.com/tpu/docs/v6e',
  ),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that a program runs on.

  Attributes:
    name: as in the config, 'v5e:4x4'.
    generation: a key of CHIPS.
    count: how many chips there are.
  """

  name: str
  generation: str
  count: int

  @property
  def chip(self) -> Chip:
    return CHIPS[self.generation]


def names() -> list[str]:
  """Every slice, as `plan.topology` names it."""
  return [f'{g}:{shape}' for g, chip in CHIPS.items() for shape in chip.shapes]


def _count(shape):
  return math.prod(int(n) for n in shape.split('x'))


def _nearest(name):
  """The slice that was probably meant; v5e-16 is v5e:4x4."""
  counted = re.fullmatch(r'(v\d\w*)-(\d+)', name)
  shaped = re.fullmatch(r'(v\d\w*):(\d+(?:x\d+)*)', name)
  found = counted or shaped
  if not found or found[1] not in CHIPS:
    return errors.nearest(name, names())
  chip = CHIPS[found[1]]
  wanted = int(found[2]) / chip.cores_named if counted else _count(found[2])
  far = lambda shape: abs(math.log(_count(shape) / max(wanted, 1)))
  return f'{found[1]}:{min(chip.shapes, key=far)}'


def parse(name: str) -> Slice:
  """The slice of that name.

  Raises:
    ConfigError: there is no such slice.
  """
  generation, _, shape = name.partition(':')
  if not name:
    raise errors.ConfigError(
      _PATH, 'not given', legal='a slice such as v5e:4x4'
    )
  if generation not in CHIPS:
    raise errors.ConfigError(
      _PATH,
      f'found {name!r}',
      legal=f'{", ".join(CHIPS)}, then a colon and a shape, as in v5e:4x4',
      nearest=_nearest(name),
    )
  if shape not in CHIPS[generation].shapes:
    legal = [f'{generation}:{s}' for s in CHIPS[generation].shapes]
    raise errors.ConfigError(
      _PATH,
      f'found {name!r}',
      legal=', '.join(legal),
      nearest=_nearest(name),
    )
  return Slice(name, generation, _count(shape))
