"""Products with codes, against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.quantization import code_matrix
from kd.quantization import schemes

_INPUTS, _OUTPUTS = 256, 2060
_FLOAT_BYTES = 4 * _INPUTS * _OUTPUTS


def _twice(matrix, x):
  """Multiplies x and x + 1 in a loop, as steps of decoding do."""
  add = lambda i, y: y + matrix.multiply(x + i, x.dtype)
  return jax.lax.fori_loop(0, 2, add, jnp.zeros((len(x), _OUTPUTS)))


@pytest.mark.parametrize('name', ['int8', 'int4', 'q8_0', 'q4_0', 'fp8'])
def test_products_read_codes_and_copy_no_matrix(name, monkeypatch):
  monkeypatch.setattr(code_matrix, '_TILE', _INPUTS * 100)
  random = np.random.default_rng(0)
  scheme = schemes.SCHEMES[name]
  codes, scales = scheme.quantize(random.normal(size=(_INPUTS, _OUTPUTS)))
  # Each code times its block's scale.
  codes_, scales_ = (np.asarray(x, np.float64) for x in (codes, scales))
  weights = codes_ * np.repeat(scales_, _INPUTS // len(scales), axis=0)
  matrix = code_matrix.make(codes, scales, (_OUTPUTS,))
  bits = 4 if codes.dtype == jnp.int4 else 8
  assert matrix.codes.nbytes == bits * codes.size / 8
  # One row of inputs, several rows, and a vector beyond the size limit.
  for rows, vector_bytes in ((1, 2**14), (3, 2**14), (1, 0)):
    monkeypatch.setattr(code_matrix, '_VECTOR_BYTES', vector_bytes)
    x = random.normal(size=(rows, _INPUTS)).astype(np.float32)
    # A new function, since jit would reuse the trace from before the change.
    program = jax.jit(lambda *args: _twice(*args)).lower(matrix, x).compile()
    np.testing.assert_allclose(
      program(matrix, x), (2 * x + 1) @ weights, atol=5e-4
    )
    assert program.memory_analysis().temp_size_in_bytes < _FLOAT_BYTES / 8
  np.testing.assert_allclose(
    jax.jit(code_matrix._whole)(matrix._parts(x), matrix),
    x @ weights,
    atol=2e-4,
  )
  ids = np.array([[5, 0], [2059, 5]])
  np.testing.assert_allclose(matrix.rows(ids), weights.T[ids], rtol=1e-6)
