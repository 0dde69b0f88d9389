"""The machine's memory as a timed program: sums of float32 arrays in JAX.

Its argument is a JSON object; mib: of the array.
"""

import json
import sys

import jax
import jax.numpy as jnp

from benchmarks import stepper
from kd.core import host_memory

_SUMS = 8  # One alone is over before the machine's noise evens out.


def main(argument):
  stream = stepper.claim_stdout()
  size = json.loads(argument)['mib'] * 2**20
  x = jnp.ones((size // 4,), jnp.float32)
  total = jax.jit(jnp.sum)

  def step():
    for _ in range(_SUMS):
      total(x).block_until_ready()

  stepper.serve(stream, step, {'gb': 1e-9 * size * _SUMS})


if __name__ == '__main__':
  host_memory.use_large_pages()  # As `python -m kd` does.
  main(sys.argv[1])
