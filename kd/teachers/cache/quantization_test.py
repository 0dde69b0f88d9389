"""Compares quantization with plain Python."""

import numpy as np
import pytest

from kd.teachers.cache import quantization


def _naive_bits(ids, bits):
  """Returns all ids as one number, packed independently."""
  return sum(int(i) << (bits * n) for n, i in enumerate(ids))


@pytest.mark.parametrize('vocab_size', [1, 2, 3, 256, 257, 262144, 2**31])
@pytest.mark.parametrize('count', [0, 1, 7, 64])
def test_ids_are_decoded_from_the_bits_they_need(vocab_size, count):
  bits = quantization.id_bits(vocab_size)
  assert 2**bits >= vocab_size > 2 ** (bits - 1) - (vocab_size == 1)
  rng = np.random.default_rng(count)
  ids = rng.integers(0, vocab_size, count).astype(np.uint32)
  if count:
    ids[0], ids[-1] = 0, vocab_size - 1
  packed = quantization.pack_ids(ids, bits)
  assert len(packed) == quantization.packed_size(count, bits)
  assert len(packed) <= count * bits / 8 + 1
  found = quantization.unpack_ids(packed, count, bits)
  assert _naive_bits(found, bits) == _naive_bits(ids, bits)


def test_gaps_restart_at_each_position():
  rows = [[3, 7, 8], [], [0], [262143], [], [5, 6]]
  counts = np.array([len(row) for row in rows])
  ids = np.array(sum(rows, []), np.uint32)
  gaps = quantization.gaps(ids, counts)
  assert gaps.tolist() == [3, 4, 1, 0, 262143, 5, 1]
  assert quantization.from_gaps(gaps, counts).tolist() == ids.tolist()
  nothing = np.zeros(0, np.uint32)
  assert not len(quantization.gaps(nothing, np.zeros(3, int)))
  assert not len(quantization.from_gaps(nothing, np.zeros(3, int)))


def test_logprobs_stay_within_the_bound():
  rng = np.random.default_rng(0)
  counts = rng.integers(0, 70, 300)
  logprobs = -np.abs(rng.normal(0, 6, counts.sum())).astype(np.float32)
  logprobs[::17], logprobs[5::31] = 0.0, -1e-8
  lowest = quantization.lowest(logprobs, counts)
  assert lowest.dtype == np.float16
  each = np.repeat(lowest.astype(np.float32), counts)
  assert (each <= logprobs).all()
  found = quantization.decode(quantization.encode(logprobs, each), each)
  error = np.abs(found.astype(np.float64) - logprobs)
  # The error of half a level of the square root.
  root = np.sqrt(np.divide(logprobs, each, where=each < 0, out=0 * each))
  bound = -each * (root / 255 + 1 / 510**2)
  assert (error <= bound + 1e-6).all()
  # Some errors are close to the bound, so it is tight.
  assert (error > 0.9 * bound).any()
  # A probability of 1 stays exact.
  assert (found[logprobs == 0] == 0).all()


def test_log_probabilities_of_zero_have_code_0():
  logprobs, counts = np.zeros(3, np.float32), np.array([3])
  lowest = np.repeat(
    quantization.lowest(logprobs, counts).astype(np.float32), 3
  )
  assert quantization.encode(logprobs, lowest).tolist() == [0, 0, 0]
  assert quantization.decode(np.zeros(3, np.uint8), lowest).tolist() == [
    0,
    0,
    0,
  ]
