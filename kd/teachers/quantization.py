"""Ids and log-probabilities in few bits, with bounds on what is lost."""

import numpy as np

_LEVELS = 255


def id_bits(vocab_size: int) -> int:
  """Bits that an id below `vocab_size` needs."""
  return max(1, (vocab_size - 1).bit_length())


def pack_ids(ids: np.ndarray, bits: int) -> bytes:
  """Unsigned numbers below 2 ** bits, `bits` each and no more.

  They lie in planes: all lowest bytes, all second bytes, ..., then the bits
  that are left, side by side. The compressor behind finds more in a plane than
  in a stream whose numbers begin anywhere in a byte.

  Args:
    ids: uint32 [n].
    bits: of each.
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
  """Bytes of `count` numbers of `bits` each."""
  whole, rest = divmod(bits, 8)
  return count * whole + (count * rest + 7) // 8


def unpack_ids(data: bytes, count: int, bits: int) -> np.ndarray:
  """The inverse of pack_ids: uint32 [count]."""
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
  """Each id less the one before it in its position; the first as it is.

  Args:
    ids: uint32 [entries], rising within a position.
    counts: int [positions], entries of each.
  """
  before = np.concatenate([np.zeros(1, ids.dtype), ids[:-1]])[: len(ids)]
  before[_starts(counts)] = 0
  return ids - before


def from_gaps(gaps: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """The inverse of gaps."""
  # Wraps around at 2 ** 32, and differences of such sums are right again.
  sums = np.cumsum(gaps, dtype=np.uint32)
  starts = _starts(counts)
  before = sums[starts] - gaps[starts]
  return sums - np.repeat(before, counts[counts > 0])


def _starts(counts):
  """Where each position that has entries begins."""
  ends = np.cumsum(counts)
  return (ends - counts)[counts > 0]


def lowest(logprobs: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """What codes of a position are relative to: float16 [positions], <= 0.

  Args:
    logprobs: float32 [entries].
    counts: int [positions], entries of each.
  """
  found = np.zeros(len(counts), np.float32)
  if len(logprobs):
    found[counts > 0] = np.minimum.reduceat(logprobs, _starts(counts))
  rounded = found.astype(np.float16)
  # Not above the lowest: its code would be beyond the last.
  return np.where(
    rounded > found, np.nextafter(rounded, np.float16(-np.inf)), rounded
  )


def encode(logprobs: np.ndarray, lowest: np.ndarray) -> np.ndarray:
  """Codes uint8 [entries] of log-probabilities.

  Levels are closer where probabilities are larger: the code is 255 times the
  square root of the share of the lowest one.

  Args:
    logprobs: float32 [entries], from `lowest` to 0.
    lowest: float32 [entries], that of the position, < 0 unless all are 0.
  """
  share = np.divide(
    logprobs, lowest, out=np.zeros_like(logprobs), where=lowest < 0
  )
  return np.rint(_LEVELS * np.sqrt(share)).astype(np.uint8)


def decode(codes: np.ndarray, lowest: np.ndarray) -> np.ndarray:
  """Log-probabilities float32 [entries] of codes; see encode."""
  root = codes.astype(np.float32) / _LEVELS
  return lowest * root * root


def bound(logprobs: np.ndarray, lowest: np.ndarray) -> np.ndarray:
  """The most that decoding may be away from each log-probability.

  Half a level of the root, squared: |lowest| (root / 255 + 1 / 510^2).
  """
  root = np.sqrt(np.divide(logprobs, lowest, where=lowest < 0, out=0 * lowest))
  return -lowest * (root / _LEVELS + 1 / (2 * _LEVELS) ** 2)
