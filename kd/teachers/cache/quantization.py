"""Stores ids and log-probabilities in few bits."""

import numpy as np

_LEVELS = 255


def id_bits(vocab_size: int) -> int:
  """Returns the number of bits that an id below `vocab_size` needs."""
  return max(1, (vocab_size - 1).bit_length())


def pack_ids(ids: np.ndarray, bits: int) -> bytes:
  """Packs unsigned numbers below 2 ** bits into `bits` each.

  They are stored in planes: all lowest bytes, all second bytes, ..., then the
  remaining bits. Planes compress better than a stream of numbers that are not
  aligned to bytes.

  Args:
    ids: uint32 [n].
    bits: number of bits per number.
  """
  whole, rest = divmod(bits, 8)
  planes = [
    (ids >> np.uint32(8 * i)).astype(np.uint8).tobytes() for i in range(whole)
  ]
  if rest:
    top = (ids >> np.uint32(8 * whole)).astype(np.uint8)
    each = np.unpackbits(top[:, None], axis=1, count=None)[:, 8 - rest :]
    planes.append(np.packbits(each).tobytes())
  return b''.join(planes)


def packed_size(count: int, bits: int) -> int:
  """Returns the size in bytes of `count` packed numbers."""
  whole, rest = divmod(bits, 8)
  return count * whole + (count * rest + 7) // 8


def unpack_ids(data: bytes, count: int, bits: int) -> np.ndarray:
  """Reverses pack_ids: uint32 [count]."""
  whole, rest = divmod(bits, 8)
  ids = np.zeros(count, np.uint32)
  for i in range(whole):
    plane = np.frombuffer(data, np.uint8, count, i * count)
    ids |= plane.astype(np.uint32) << np.uint32(8 * i)
  if rest:
    packed = np.frombuffer(data, np.uint8, offset=whole * count)
    each = np.unpackbits(packed, count=count * rest).reshape(count, rest)
    top = np.zeros((count, 8), np.uint8)
    top[:, 8 - rest :] = each
    top = np.packbits(top, axis=1)[:, 0]
    ids |= top.astype(np.uint32) << np.uint32(8 * whole)
  return ids


def gaps(ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns each position's first id and the differences of consecutive ids.

  Args:
    ids: uint32 [entries], increasing within a position.
    counts: int [positions], the number of entries of each.
  """
  before = np.concatenate([np.zeros(1, ids.dtype), ids[:-1]])[: len(ids)]
  before[_starts(counts)] = 0
  return ids - before


def from_gaps(gaps: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Reverses gaps."""
  # The sums wrap around at 2 ** 32, but their differences are correct.
  sums = np.cumsum(gaps, dtype=np.uint32)
  starts = _starts(counts)
  before = sums[starts] - gaps[starts]
  return sums - np.repeat(before, counts[counts > 0])


def _starts(counts):
  """Returns the index of the first entry of each position that has any."""
  ends = np.cumsum(counts)
  return (ends - counts)[counts > 0]


def lowest(logprobs: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Returns a lower bound of each position's values: float16 [positions], <= 0.

  Args:
    logprobs: float32 [entries].
    counts: int [positions], the number of entries of each.
  """
  exact = np.zeros(len(counts), np.float32)
  if len(logprobs):
    exact[counts > 0] = np.minimum.reduceat(logprobs, _starts(counts))
  rounded = exact.astype(np.float16)
  # If the bound were rounded up, the lowest value's code would exceed 255.
  return np.where(
    rounded > exact, np.nextafter(rounded, np.float16(-np.inf)), rounded
  )


def encode(logprobs: np.ndarray, lowest: np.ndarray) -> np.ndarray:
  """Quantizes log-probabilities to codes, uint8 [entries].

  The code is 255 sqrt(logprob / lowest), so that levels are closer for larger
  probabilities.

  Args:
    logprobs: float32 [entries], from `lowest` to 0.
    lowest: float32 [entries], lower bound of the entry's position, < 0 unless
      all its values are 0.
  """
  ratio = np.divide(
    logprobs, lowest, out=np.zeros_like(logprobs), where=lowest < 0
  )
  return np.rint(_LEVELS * np.sqrt(ratio)).astype(np.uint8)


def decode(codes: np.ndarray, lowest: np.ndarray) -> np.ndarray:
  """Reverses encode: float32 [entries]."""
  root = codes.astype(np.float32) / _LEVELS
  return lowest * root * root
