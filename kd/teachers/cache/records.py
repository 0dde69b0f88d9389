"""Encodes one row's targets as a record of a cache.

All numbers are little-endian. n is the number of counted positions, E the
number of their entries.

  8 bytes      digest of the row that the targets belong to
  3 x uint32   L, n, D (0 without hidden states)
  ceil(L / 8)  mask of counted positions, one bit each, the highest bit first
  n x float16  log-probability of the true next token
  n x float32  log-normalizer of the teacher's logits
  entries:     n x uint16 number of entries of each position; n x float16
               log-mass of all but the most likely ids (if these are kept); n x
               float32 log-sum of p^(1 / temperature) over the ids that may be
               drawn (if the temperature is not 1); n x float16 lowest
               log-probability (if stored as uint8); E differences of ids, see
               quantization.gaps and pack_ids; E x uint8 codes or float16
               log-probabilities; E x uint8 draw counts, uint16 from 256 draws
               on (if ids are drawn)
  hidden:      n x float16 entropy; n x D bfloat16, or n x float32 steps and
               n x D int8
  uint32       CRC-32 of the cache's digest and all bytes above
"""

import dataclasses
import hashlib
import struct
import zlib

import ml_dtypes
import numpy as np

from kd.core import types
from kd.input_pipeline import packing
from kd.teachers.cache import compression
from kd.teachers.cache import quantization

_HEADER = struct.Struct('<8s3I')
_CHECK = struct.Struct('<I')
_LEAST = np.float32(-6e4)  # In float16's range, and its exponential is 0.
_STEPS = 127

DIGEST_BYTES = 8


class DamagedError(Exception):
  """Raised if a record's bytes differ from those written."""


@dataclasses.dataclass(frozen=True)
class RecordedRow:
  """The targets of one row.

  Attributes:
    digest: digest of their row, see digest_of.
    counted: bool [L], True at the n positions with targets.
    target_logprob: float32 [n], the log-probability of the true next token.
    log_normalizer: float32 [n], log-normalizer of the teacher's logits.
    entries: int32 [n], the number of ids of each position; None with hidden.
    ids: uint32 [E], increasing within a position, or None.
    logprobs: float32 [E], log-probabilities of the ids, or None.
    counts: int32 [E], number of draws of each, 0 for an id that is kept for
      its probability; or None.
    tail_logprob: float32 [n], the log-mass of all ids but the most likely
      ones, or None.
    entropy: float32 [n], in nats, with hidden; otherwise None.
    hidden: bfloat16 or float32 [n, D], or None.
    log_rest: float32 [n], see compression.Compressed; or None.
  """

  digest: bytes
  counted: np.ndarray
  target_logprob: np.ndarray
  log_normalizer: np.ndarray
  entries: np.ndarray | None
  ids: np.ndarray | None
  logprobs: np.ndarray | None
  counts: np.ndarray | None
  tail_logprob: np.ndarray | None
  entropy: np.ndarray | None
  hidden: np.ndarray | None
  log_rest: np.ndarray | None = None


def digest_of(batch: types.Batch, at: int) -> bytes:
  """Returns the digest of a prepared row's content.

  Args:
    batch: numpy arrays.
    at: index of the row in the batch.
  """
  row = {name: getattr(batch, name)[at] for name in packing.FIELDS}
  data = packing.to_bytes(row)
  return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def encode(
  row: RecordedRow,
  method: compression.Method,
  vocab_size: int,
  cache_digest: str,
) -> bytes:
  """Returns the record of a row.

  Args:
    row: the targets.
    method: compression method of the cache.
    vocab_size: V.
    cache_digest: digest from manifest.cache_digest, which decode compares.
  """
  size = 0 if row.hidden is None else row.hidden.shape[1]
  parts = [
    _HEADER.pack(row.digest, len(row.counted), len(row.target_logprob), size),
    np.packbits(row.counted).tobytes(),
    _half(row.target_logprob),
    row.log_normalizer.astype('<f4').tobytes(),
  ]
  if method.entries:
    parts += _encode_entries(row, method, vocab_size)
  else:
    parts += [_half(row.entropy), *_encode_hidden(row.hidden, method)]
  data = b''.join(parts)
  return data + _CHECK.pack(_crc(data, cache_digest))


def _crc(data, cache_digest):
  return zlib.crc32(data, zlib.crc32(cache_digest.encode()))


def _half(x):
  return np.maximum(x, _LEAST).astype('<f2').tobytes()


def _encode_entries(row, method, vocab_size):
  yield row.entries.astype('<u2').tobytes()
  if method.exact:
    yield _half(row.tail_logprob)
  if method.is_softened:
    yield row.log_rest.astype('<f4').tobytes()
  logprobs = np.maximum(row.logprobs, _LEAST)
  gaps = quantization.gaps(row.ids, row.entries)
  packed = quantization.pack_ids(gaps, quantization.id_bits(vocab_size))
  if method.stored_as == 'uint8':
    lowest = quantization.lowest(logprobs, row.entries)
    each = np.repeat(lowest.astype(np.float32), row.entries)
    yield lowest.astype('<f2').tobytes()
    yield packed
    yield quantization.encode(logprobs, each).tobytes()
  else:
    yield packed
    yield logprobs.astype('<f2').tobytes()
  if method.draws:
    yield row.counts.astype(_count_type(method)).tobytes()


def _count_type(method):
  return '<u1' if method.draws < 256 else '<u2'


def _encode_hidden(hidden, method):
  if method.stored_as == 'bfloat16':
    yield hidden.astype(ml_dtypes.bfloat16).view('<u2').tobytes()
    return
  hidden = hidden.astype(np.float32)
  step = np.max(np.abs(hidden), axis=1, initial=0.0) / _STEPS
  yield step.astype('<f4').tobytes()
  scaled = np.divide(
    hidden, step[:, None], out=np.zeros_like(hidden), where=step[:, None] > 0
  )
  yield np.rint(scaled).astype(np.int8).tobytes()


class _Reader:
  """Reads consecutive arrays from bytes."""

  def __init__(self, data: bytes):
    self.data, self.at = data, 0

  def take(self, kind: str, count: int) -> np.ndarray:
    kind = np.dtype(kind)
    array = np.frombuffer(self.data, kind, count, self.at)
    self.at += count * kind.itemsize
    return array

  def take_bytes(self, count: int) -> bytes:
    self.at += count
    return self.data[self.at - count : self.at]


def decode(
  data: bytes, method: compression.Method, vocab_size: int, cache_digest: str
) -> RecordedRow:
  """Returns the encoded row, up to rounding.

  The probabilities of kept ids and the tail are normalized to sum to 1 again.

  Raises:
    DamagedError: the bytes were changed, or are a record of another cache.
  """
  if len(data) < _HEADER.size + _CHECK.size:
    raise DamagedError(f'a record of {len(data)} bytes')
  body, check = data[: -_CHECK.size], data[-_CHECK.size :]
  if _crc(body, cache_digest) != _CHECK.unpack(check)[0]:
    raise DamagedError('its CRC-32 is not that of a record of this cache')
  digest, length, n, size = _HEADER.unpack_from(body)
  reader = _Reader(body)
  reader.at = _HEADER.size
  bits = np.frombuffer(reader.take_bytes((length + 7) // 8), np.uint8)
  nothing = dict.fromkeys(
    ('entries', 'ids', 'logprobs', 'counts', 'tail_logprob')
  )
  common = dict(
    digest=digest,
    counted=np.unpackbits(bits, count=length).astype(bool),
    target_logprob=reader.take('<f2', n).astype(np.float32),
    log_normalizer=reader.take('<f4', n).astype(np.float32),
  )
  if method.entries:
    entries = _decode_entries(reader, method, vocab_size, n)
    return RecordedRow(**common, **entries, entropy=None, hidden=None)
  entropy = reader.take('<f2', n).astype(np.float32)
  hidden = _decode_hidden(reader, method, n, size)
  return RecordedRow(**common, **nothing, entropy=entropy, hidden=hidden)


def _decode_entries(reader, method, vocab_size, n):
  entries = reader.take('<u2', n).astype(np.int32)
  total = int(entries.sum())
  tail = counts = lowest = log_rest = None
  if method.exact:
    tail = reader.take('<f2', n).astype(np.float32)
  if method.is_softened:
    log_rest = reader.take('<f4', n).astype(np.float32)
  if method.stored_as == 'uint8':
    lowest = reader.take('<f2', n).astype(np.float32)
  bits = quantization.id_bits(vocab_size)
  packed = reader.take_bytes(quantization.packed_size(total, bits))
  ids = quantization.from_gaps(
    quantization.unpack_ids(packed, total, bits), entries
  )
  if method.stored_as == 'uint8':
    each = np.repeat(lowest, entries)
    logprobs = quantization.decode(reader.take('u1', total), each)
  else:
    logprobs = reader.take('<f2', total).astype(np.float32)
  if method.draws:
    counts = reader.take(_count_type(method), total).astype(np.int32)
  if method.exact:
    kept = np.ones(total, bool) if counts is None else counts == 0
    logprobs, tail = _normalize(logprobs, kept, entries, tail)
  return dict(
    entries=entries,
    ids=ids,
    logprobs=logprobs,
    counts=counts,
    tail_logprob=tail,
    log_rest=log_rest,
  )


def _normalize(logprobs, kept, entries, tail):
  """Normalizes the probabilities of kept ids and the tail to sum to 1."""
  if not len(logprobs):
    return logprobs, tail
  starts = np.cumsum(entries) - entries
  mass = np.add.reduceat(kept * np.exp(logprobs.astype(np.float64)), starts)
  log_sum = np.log(mass + np.exp(tail.astype(np.float64))).astype(np.float32)
  return logprobs - kept * np.repeat(log_sum, entries), tail - log_sum


def _decode_hidden(reader, method, n, size):
  if method.stored_as == 'bfloat16':
    raw = reader.take('<u2', n * size).astype(np.uint16)
    return raw.view(ml_dtypes.bfloat16).reshape(n, size)
  step = reader.take('<f4', n).astype(np.float32)
  levels = reader.take('i1', n * size).reshape(n, size)
  return levels.astype(np.float32) * step[:, None]
